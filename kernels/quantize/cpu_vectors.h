// Vectors of 16 lanes in GCC's and Clang's vector notation, so that one source serves AVX-512, AVX2 and NEON.
//
// 32 values are a pair of vectors: the even values and the odd ones. A shift and a mask separate the two BF16 values of
// 32 bits, and join them again. Only cpu_native.cpp and cpu_fp8.h include this file.

#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#ifdef __AVX512F__
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))
#define INLINE_MEMBER inline __attribute__((always_inline))
#define APART static __attribute__((noinline))  // compiled once: it is rare, and many functions call it

typedef float F __attribute__((vector_size(64)));
typedef uint32_t U __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
typedef uint64_t D __attribute__((vector_size(64)));
typedef uint8_t Bytes __attribute__((vector_size(16)));
typedef uint32_t Unaligned __attribute__((vector_size(64), aligned(2), may_alias));

extern "C" struct Job {  // the same fields as Job in cpu_build.py
  const void* x;             // null: the values of `codes` and `scales` go to `out`
  uint16_t* out;             // null: codes and scales are written in its place
  uint8_t *codes, *scales;   // (rows, columns / 2) E2M1, the first element in the low nibble; (rows, columns / 32)
  float* scale;        // of a matrix in FP8 or NVFP4; written
  const float* signs;  // `hadamard` of +1 and -1, or null
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned);  // GOMP_parallel of torch's OpenMP, or null
  int64_t rows, columns;         // M, K of the matrix whose rows hold the blocks
  int64_t x_stride, out_stride;  // elements between rows, or between columns when transposed
  uint64_t seed, offset;
  int32_t is_bf16, is_transposed, hadamard, block_rows, is_stochastic;
  int32_t is_fp8, threads;  // is_fp8: one scale for the matrix, cpu_fp8.h
  int32_t nvfp4, rule;      // NVFP4's TensorScale, or 0 for the other formats; Rule
  int32_t is_scaled;        // NVFP4's values with the tensor scale, rounded to BF16
  uint32_t carry, max_exponent, smallest, mantissa_bits;  // of the scale rule and the element
  float largest, prescale, factor;                        // factor: 1 / sqrt(hadamard)
  float encode, decode;                                   // NVFP4's tensor scales; computed
};

constexpr int LANES = 16, BLOCK = 32;
constexpr uint32_t EXPONENT = 0x7F800000u, MAGNITUDE = 0x7FFFFFFFu, SIGN = 0x80000000u, UPPER = 0xFFFF0000u;
constexpr uint32_t QUIET_NAN = 0x7FC00000u;

enum TensorScale { NONE_OF_NVFP4, AMAX, TORCHAO, NO_TENSOR_SCALE };
// MX formats: `carry` says all but LEAST_ERROR. EDEN: the rule even and the rounding ms-eden
enum Rule { EVEN, RCEIL, FOUR_SIX, LEAST_ERROR, EDEN, EDEN_WEIGHTED };
enum Kind { PLAIN, NEAREST, RANDOM, NVFP4, NVFP4_RANDOM };  // PLAIN: E2M1, nearest, no pre-scale, constants known
constexpr bool is_random(Kind kind) { return kind == RANDOM || kind == NVFP4_RANDOM; }
constexpr bool is_nvfp4(Kind kind) { return kind >= NVFP4; }

struct Pair { F v[2]; };  // 32 consecutive values: even, odd

static const D COUNT = {0, 1, 2, 3, 4, 5, 6, 7};
static const U LANE = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

INLINE U all(uint32_t v) { return U{} + v; }
INLINE U bits(F v) { return (U)v; }
INLINE F value(U v) { return (F)v; }
INLINE U larger(U a, U b) { return a > b ? a : b; }
INLINE U smaller(U a, U b) { return a < b ? a : b; }
INLINE U magnitude(F v) { return bits(v) & MAGNITUDE; }
INLINE F choose(U mask, F yes, F no) { return value((bits(yes) & mask) | (bits(no) & ~mask)); }

template <int... X, class V> INLINE V pick(V a, V b) {  // lanes 0..15 of a, 16..31 of b
#if defined(__clang__)
  return __builtin_shufflevector(a, b, X...);
#else
  return __builtin_shuffle(a, b, (I){X...});
#endif
}
template <class V> INLINE V evens(V a, V b) {
  return pick<0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30>(a, b);
}
template <class V> INLINE V odds(V a, V b) {
  return pick<1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31>(a, b);
}
template <int N, class V> INLINE V swapped(V v) {  // lane i takes lane i ^ N
  return pick<0 ^ N, 1 ^ N, 2 ^ N, 3 ^ N, 4 ^ N, 5 ^ N, 6 ^ N, 7 ^ N, 8 ^ N, 9 ^ N, 10 ^ N, 11 ^ N, 12 ^ N, 13 ^ N,
              14 ^ N, 15 ^ N>(v, v);
}

// Sums in the order of elements.tree_sum: neighbours first
INLINE F half_sum(F v) {  // of lanes 0..7 and of 8..15, in each of them
  v = v + swapped<1>(v), v = v + swapped<2>(v);
  return v + swapped<4>(v);
}
INLINE F tree_sum(F* e, int count) {
  for (int width = count / 2; width; width /= 2)
    for (int k = 0; k < width; k++) e[k] = e[2 * k] + e[2 * k + 1];
  return e[0];
}

INLINE Pair load(const float* p) {
  F a, b;
  std::memcpy(&a, p, sizeof a);
  std::memcpy(&b, p + LANES, sizeof b);
  return {{evens(a, b), odds(a, b)}};
}
INLINE Pair load(const uint16_t* p) {  // BF16
  U both;
  std::memcpy(&both, p, sizeof both);
  return {{value(both << 16), value(both & UPPER)}};
}
template <class T> INLINE Pair load(const T* p, int64_t count) {
  if (count >= BLOCK) return load(p);
  T padded[BLOCK] = {};
  std::memcpy(padded, p, count * sizeof(T));
  return load(padded);
}
template <Kind KIND> INLINE U packed(Pair r, bool rounds) {
  U a = bits(r.v[0]), b = bits(r.v[1]);
  if (KIND != PLAIN && rounds) {  // small FP8 elements do not fit into BF16: to nearest even
    a += 0x7FFFu + ((a >> 16) & 1u);
    b += 0x7FFFu + ((b >> 16) & 1u);
  }
  return (a >> 16) | (b & UPPER);
}

INLINE U largest_of(const Pair& t) { return larger(magnitude(t.v[0]), magnitude(t.v[1])); }

INLINE void add_subtract(Pair& one, Pair& two) {
  for (int i = 0; i < 2; i++) {
    F a = one.v[i], b = two.v[i];
    one.v[i] = a + b, two.v[i] = a - b;
  }
}

// Philox4x32-10, kernels/philox.py; 32-bit words in the lower halves of 64-bit lanes, the upper halves are never read
struct Words { D w[4]; };

INLINE D product(D x, uint32_t by) {  // 64 bits of lower half times by
#ifdef __AVX512F__
  return (D)_mm512_mul_epu32((__m512i)x, _mm512_set1_epi64(by));
#else
  return (x & 0xFFFFFFFFu) * by;
#endif
}

template <int N> INLINE void philox(const D counter[N], const Job& job, Words out[N]) {  // N at a time, as blocks are
  D s0[N], s1[N], s2[N], s3[N];
  for (int i = 0; i < N; i++)
    s0[i] = counter[i], s1[i] = counter[i] >> 32, s2[i] = D{} + job.offset, s3[i] = D{} + (job.offset >> 32);
  uint32_t k0 = (uint32_t)job.seed, k1 = (uint32_t)(job.seed >> 32);
  for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u)
    for (int i = 0; i < N; i++) {
      D a = product(s0[i], 0xD2511F53u), b = product(s2[i], 0xCD9E8D57u);
      s0[i] = (b >> 32) ^ s1[i] ^ k0, s1[i] = b, s2[i] = (a >> 32) ^ s3[i] ^ k1, s3[i] = a;
    }
  for (int i = 0; i < N; i++) out[i] = {{s0[i], s1[i], s2[i], s3[i]}};
}

INLINE U joined(D even, D odd) { return (U)((even & 0xFFFFFFFFu) | (odd << 32)); }

// What is the same for every element of a job, in registers
struct Constants {
  uint32_t carry, max_exponent, smallest, to_step, to_base, largest;
  float prescale;
  bool rounds, saturates;
};

template <Kind KIND> INLINE Constants constants_of(const Job& job) {
  const uint32_t e2m1_largest = 0x40C00000u;  // 6
  if (KIND == PLAIN) return {job.carry, 2u << 23, 127u << 23, 1u << 23, 22u << 23, e2m1_largest, 1.0f, false, false};
  if (is_nvfp4(KIND))
    return {0, 2u << 23, 127u << 23, 1u << 23, 22u << 23, e2m1_largest, job.prescale, job.is_scaled != 0,
            job.is_scaled && job.decode > 1e34f};
  uint32_t largest;
  std::memcpy(&largest, &job.largest, sizeof largest);
  return {job.carry, job.max_exponent << 23, job.smallest, job.mantissa_bits << 23, (23 - job.mantissa_bits) << 23,
          largest, job.prescale, job.mantissa_bits > 1, false};
}

// Scale and elements
struct Scale { F inverse, scale; };

INLINE Scale scale_of(U largest, const Constants& c) {  // of magnitude bits, one block a lane
  I above = (I)(((largest + c.carry) & EXPONENT) - c.max_exponent);
  U scale = (U)(above > 0x00400000 ? above : I{} + 0x00400000);  // byte 0 is 2^-127, subnormal in FP32
  F inverse = value((254u << 23) - (scale & EXPONENT));
  return {inverse, value(((U)(largest >= EXPONENT) & QUIET_NAN) | scale)};
}

// The rule least-error: the scale or its double, whichever has the smaller squared error
INLINE F squared_error(F x, F inverse, const Constants& c) {  // in units of the scale
  const F y = value(magnitude(x)) * inverse;
  const U capped = smaller(bits(y), all(c.largest));
  const F base = value(larger(capped & EXPONENT, all(c.smallest)) + c.to_base);
  const F difference = y - ((value(capped) + base) - base);
  return difference * difference;
}

INLINE Scale doubled(const Scale& s) { return {s.inverse * 0.5f, value((bits(s.scale) + (1u << 23)) & EXPONENT)}; }

INLINE Scale better(const Scale& one, const Scale& two, F one_error, F two_error) {
  const U take = (U)(two_error * 4.0f < one_error);  // false where a value is not finite
  return {choose(take, two.inverse, one.inverse), choose(take, two.scale, one.scale)};
}

APART Scale least_error(const Pair& t, const U& largest, const Constants& c) {  // a block, its largest in every lane
  const Scale one = scale_of(largest, c), two = doubled(one);
  F errors[2];
  for (int i = 0; i < 2; i++) {
    const F inverse = i ? two.inverse : one.inverse;
    const F halves = half_sum(squared_error(t.v[0], inverse, c) + squared_error(t.v[1], inverse, c));
    errors[i] = halves + swapped<8>(halves);
  }
  return better(one, two, errors[0], errors[1]);
}

APART Scale least_error(const Pair* t, int i, const U& largest, const Constants& c) {  // a block in 32 steps of a lane
  const Scale one = scale_of(largest, c), two = doubled(one);
  F first[BLOCK], second[BLOCK];
  for (int k = 0; k < BLOCK; k++)
    first[k] = squared_error(t[k].v[i], one.inverse, c), second[k] = squared_error(t[k].v[i], two.inverse, c);
  return better(one, two, tree_sum(first, BLOCK), tree_sum(second, BLOCK));
}

template <Kind KIND, class S> INLINE F element(F x, const S& by, U random, const Constants& c) {
  F scaled = value(magnitude(x)) * by.inverse;
  if (KIND != PLAIN) scaled *= c.prescale;
  U capped = smaller(bits(scaled), all(c.largest));  // NaN becomes finite; the scale makes its block NaN again
  F m = value(capped);
  U binade = larger(capped & EXPONENT, all(c.smallest));
  F r;
  if (is_random(KIND)) {
    F exact = m * value((254u << 23) - binade + c.to_step);
    F whole = __builtin_convertvector(__builtin_convertvector(exact, I), F);
    F chance = __builtin_convertvector((I)(random >> 8), F) * 0x1p-24f;
    F up = value((U)((exact - whole) > chance) & 0x3F800000u);  // 1
    r = (whole + up) * value(binade - c.to_step);
  } else {
    F base = value(binade + c.to_base);
    r = (m + base) - base;
  }
  U done = bits(r * by.scale);
  if (is_nvfp4(KIND) && c.saturates)  // 6 x 448 x the tensor scale may lie beyond the largest number
    done = done > EXPONENT ? done : smaller(done, all(0x7F7FFFFFu));
  return value(done | (bits(x) & SIGN));
}

// E2M1 codes of 32 values and back; pairs: BF16, the even ones in the lower halves
INLINE U code_of(F v, F inverse) {  // twice an element is 0, 1, 2, 3, 4, 6, 8 or 12
  const U twice = bits(value(magnitude(v)) * inverse * 2.0f);
  // an infinity: 4 times the largest scale, 2^126; no magnitude reaches its 6
  const U n = (U)__builtin_convertvector(value(twice >= EXPONENT ? all(0x41000000u) : twice), I);
  return (n - ((larger(n, all(4)) - 4u) >> 1) - ((larger(n, all(8)) - 8u) >> 2)) | (bits(v) >> 31 << 3);
}

INLINE void store_codes(const Job& job, int64_t row, int64_t column, U pairs, float inverse, float scale) {
  uint32_t byte;
  std::memcpy(&byte, &scale, sizeof byte);
  byte >>= 23;
  const F by = F{} + inverse;
  const U both = code_of(value(pairs << 16), by) | code_of(value(pairs & UPPER), by) << 4;
  const Bytes codes = __builtin_convertvector(byte == 255 ? U{} : both, Bytes);
  std::memcpy(job.codes + (row * job.columns + column) / 2, &codes, sizeof codes);
  job.scales[(row * job.columns + column) / BLOCK] = (uint8_t)byte;
}

INLINE U pairs_of(const Job& job, int64_t row, int64_t column) {
  Bytes codes;
  std::memcpy(&codes, job.codes + (row * job.columns + column) / 2, sizeof codes);
  const uint32_t byte = job.scales[(row * job.columns + column) / BLOCK];
  const uint32_t exponent = byte == 255 ? QUIET_NAN : byte ? byte << 23 : 0x00400000u;
  const F scale = value(all(exponent));
  const U both = __builtin_convertvector(codes, U);
  U half[2];
  for (int i = 0; i < 2; i++) {
    const U code = both >> (4 * i), n = code & 7u;
    const U twice = n + (larger(n, all(4)) - 4u) + 2u * (larger(n, all(6)) - 6u);  // the element, an integer
    half[i] = bits(__builtin_convertvector((I)twice, F) * 0.5f * scale) | (code & 8u) << 28;
  }
  return half[0] >> 16 | (half[1] & UPPER);
}
