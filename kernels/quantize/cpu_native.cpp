// Quantise-dequantise to BF16 in one pass, equal to kernels/quantize/reference.py in every bit. Built by cpu_build.py.
//
// Vectors of 16 lanes in GCC's and Clang's vector notation, so that one source serves AVX-512, AVX2 and NEON. 32 values
// are a pair of vectors, the even and the odd ones: two BF16 values in 32 bits come apart by a shift and a mask and go
// together the same way. Two orientations: blocks along a contiguous row (a pair is a block), and blocks along the
// strided dimension of a transposed matrix (a pair is 32 blocks side by side). Never compile with -ffast-math or
// contraction: the order of additions, subnormals and the sign of zero are specified.

#include <atomic>
#include <cstdint>
#include <cstring>

#define INLINE static inline __attribute__((always_inline))

typedef float F __attribute__((vector_size(64)));
typedef uint32_t U __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));

extern "C" struct Job {  // the same fields as Job in cpu_build.py
  const void* x;
  uint16_t* out;
  const float* signs;  // `hadamard` of +1 and -1, or null
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned);  // GOMP_parallel of torch's OpenMP, or null
  int64_t rows, columns;         // M, K of the matrix whose rows hold the blocks
  int64_t x_stride, out_stride;  // elements between rows, or between columns when transposed
  uint64_t seed, offset;
  int32_t is_bf16, is_transposed, hadamard, block_rows, is_stochastic, threads;
  uint32_t carry, max_exponent, smallest, mantissa_bits;  // of the scale rule and the element
  float largest, prescale, factor;                        // factor: 1 / sqrt(hadamard)
};

constexpr int LANES = 16, BLOCK = 32;
constexpr int64_t STRIP = 2048;  // rows of a transposed matrix that a thread takes at a time
constexpr uint32_t EXPONENT = 0x7F800000u, MAGNITUDE = 0x7FFFFFFFu, SIGN = 0x80000000u, UPPER = 0xFFFF0000u;
constexpr uint32_t QUIET_NAN = 0x7FC00000u;

enum Kind { PLAIN, NEAREST, RANDOM };  // PLAIN: E2M1, nearest, no pre-scale, its constants known to the compiler

struct Pair { F v[2]; };  // 32 consecutive values: even, odd

static const U LANE = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

INLINE U all(uint32_t v) { return U{} + v; }
INLINE U bits(F v) { return (U)v; }
INLINE F value(U v) { return (F)v; }
INLINE U larger(U a, U b) { return a > b ? a : b; }
INLINE U smaller(U a, U b) { return a < b ? a : b; }
INLINE U magnitude(F v) { return bits(v) & MAGNITUDE; }

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
template <class V> INLINE V lower_merged(V a, V b) {
  return pick<0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23>(a, b);
}
template <class V> INLINE V upper_merged(V a, V b) {
  return pick<8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31>(a, b);
}
template <int D, class V> INLINE V swapped(V v) {  // lane i takes lane i ^ D
  return pick<0 ^ D, 1 ^ D, 2 ^ D, 3 ^ D, 4 ^ D, 5 ^ D, 6 ^ D, 7 ^ D, 8 ^ D, 9 ^ D, 10 ^ D, 11 ^ D, 12 ^ D, 13 ^ D,
              14 ^ D, 15 ^ D>(v, v);
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
template <Kind KIND> INLINE void store(uint16_t* p, Pair r, int64_t count, bool rounds) {
  U a = bits(r.v[0]), b = bits(r.v[1]);
  if (KIND != PLAIN && rounds) {  // small FP8 elements do not fit into BF16: to nearest even
    a += 0x7FFFu + ((a >> 16) & 1u);
    b += 0x7FFFu + ((b >> 16) & 1u);
  }
  U both = (a >> 16) | (b & UPPER);
  std::memcpy(p, &both, count >= BLOCK ? sizeof both : count * sizeof *p);
}

// Philox4x32-10 with counters (low, high, offset), one a lane; kernels/philox.py
struct Words { U w[4]; };

INLINE void multiply(U x, uint32_t by, U& high, U& low) {
  for (int i = 0; i < LANES; i++) high[i] = (uint32_t)(((uint64_t)x[i] * by) >> 32);
  low = x * by;
}

INLINE Words philox(U low, U high, uint64_t seed, uint64_t offset) {
  U s0 = low, s1 = high, s2 = all((uint32_t)offset), s3 = all((uint32_t)(offset >> 32));
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    U high0, low0, high1, low1;
    multiply(s0, 0xD2511F53u, high0, low0);
    multiply(s2, 0xCD9E8D57u, high1, low1);
    s0 = high1 ^ s1 ^ k0, s1 = low1, s2 = high0 ^ s3 ^ k1, s3 = low0;
  }
  return {{s0, s1, s2, s3}};
}

// What is the same for every element of a job, in registers
struct Constants {
  uint32_t carry, max_exponent, smallest, to_step, to_base, largest;
  float prescale;
  bool rounds;
};

template <Kind KIND> INLINE Constants constants_of(const Job& job) {
  const uint32_t e2m1_largest = 0x40C00000u;  // 6
  if (KIND == PLAIN) return {job.carry, 2u << 23, 127u << 23, 1u << 23, 22u << 23, e2m1_largest, 1.0f, false};
  uint32_t largest;
  std::memcpy(&largest, &job.largest, sizeof largest);
  return {job.carry, job.max_exponent << 23, job.smallest, job.mantissa_bits << 23, (23 - job.mantissa_bits) << 23,
          largest, job.prescale, job.mantissa_bits > 1};
}

// Scale and elements
struct Scale { F inverse, scale; };

INLINE Scale scale_of(U largest, const Constants& c) {  // of magnitude bits, one block a lane
  I above = (I)(((largest + c.carry) & EXPONENT) - c.max_exponent);
  U scale = (U)(above > 0x00400000 ? above : I{} + 0x00400000);  // byte 0 is 2^-127, subnormal in FP32
  F inverse = value((254u << 23) - (scale & EXPONENT));
  return {inverse, value(((U)(largest >= EXPONENT) & QUIET_NAN) | scale)};
}

template <Kind KIND> INLINE F element(F x, const Scale& by, U random, const Constants& c) {
  F scaled = value(magnitude(x)) * by.inverse;
  if (KIND != PLAIN) scaled *= c.prescale;
  U capped = smaller(bits(scaled), all(c.largest));  // NaN becomes finite; the scale makes its block NaN again
  F m = value(capped);
  U binade = larger(capped & EXPONENT, all(c.smallest));
  F r;
  if (KIND == RANDOM) {
    F exact = m * value((254u << 23) - binade + c.to_step);
    F whole = __builtin_convertvector(__builtin_convertvector(exact, I), F);
    F chance = __builtin_convertvector((I)(random >> 8), F) * 0x1p-24f;
    F up = value((U)((exact - whole) > chance) & 0x3F800000u);  // 1
    r = (whole + up) * value(binade - c.to_step);
  } else {
    F base = value(binade + c.to_base);
    r = (m + base) - base;
  }
  return value(bits(r * by.scale) | (bits(x) & SIGN));
}

// Blocks along a contiguous row
template <int D> INLINE F stage(F v) {  // of the transform: lane i with lane i ^ D
  U negative = (U)((LANE & (uint32_t)D) != 0u) & SIGN;
  return swapped<D>(v) + value(bits(v) ^ negative);
}

template <class T, int SIZE, int P> INLINE void load_row(const T* x, Pair t[P], const U flip[P][2], float factor) {
  for (int b = 0; b < P; b++) t[b] = load(x + BLOCK * b);
  if (!SIZE) return;
  for (int b = 0; b < P; b++) {
    F even = value(bits(t[b].v[0]) ^ flip[b][0]), odd = value(bits(t[b].v[1]) ^ flip[b][1]);
    t[b] = {{even + odd, even - odd}};
    for (F& v : t[b].v) {
      v = stage<4>(stage<2>(stage<1>(v)));
      if (SIZE > LANES) v = stage<8>(v);
    }
  }
  for (int half = 1; half < SIZE / BLOCK; half *= 2)
    for (int b = 0; b < P; b++)
      for (int i = 0; i < 2 && !(b & half); i++) {
        F one = t[b].v[i], two = t[b + half].v[i];
        t[b].v[i] = one + two, t[b + half].v[i] = one - two;
      }
  for (int b = 0; b < P; b++)
    for (F& v : t[b].v) v = v * factor + 0.0f;
}

INLINE U spread(U m) {  // the largest of all lanes, in every lane
  m = larger(m, swapped<8>(m)), m = larger(m, swapped<4>(m));
  m = larger(m, swapped<2>(m));
  return larger(m, swapped<1>(m));
}
INLINE U largest_of(const Pair& t) { return larger(magnitude(t.v[0]), magnitude(t.v[1])); }

INLINE void row_words(int64_t element, const Job& job, U random[2][2]) {  // of 64 consecutive elements
  uint64_t counter = (uint64_t)element / 4;
  U low = LANE + (uint32_t)counter;
  U carried = (U)(low < (uint32_t)counter);  // a true lane is -1
  Words r = philox(low, (uint32_t)(counter >> 32) - carried, job.seed, job.offset);
  for (int i = 0; i < 2; i++) {
    random[0][i] = lower_merged(r.w[i], r.w[i + 2]);
    random[1][i] = upper_merged(r.w[i], r.w[i + 2]);
  }
}

template <class T, int SIZE, Kind KIND> static void along_rows(const Job& job, int64_t row, int64_t) {
  constexpr int W = SIZE > BLOCK ? SIZE : BLOCK, P = W / BLOCK, SPAN = W > 64 ? W : 64;
  const Constants c = constants_of<KIND>(job);
  const int64_t x_stride = job.x_stride, out_stride = job.out_stride, columns = job.columns;
  const int64_t last = row + job.block_rows;
  const bool shares = job.block_rows > 1;
  const float factor = job.factor;
  const T* x = (const T*)job.x;
  uint16_t* out = job.out;
  U flip[P][2] = {};
  if (SIZE && job.signs)
    for (int i = 0; i < W; i++) flip[i / BLOCK][i % 2][i % BLOCK / 2] = job.signs[i % SIZE] < 0 ? SIGN : 0;
  for (int64_t k = 0; k < columns; k += SPAN) {
    const int64_t end = k + SPAN < columns ? k + SPAN : columns;
    Pair t[P];
    U shared[SPAN / BLOCK] = {};
    for (int64_t m = row; shares && m < last; m++)
      for (int64_t at = k; at < end; at += W) {
        load_row<T, SIZE, P>(x + m * x_stride + at, t, flip, factor);
        for (int b = 0; b < P; b++) shared[(at - k) / BLOCK + b] = larger(shared[(at - k) / BLOCK + b], largest_of(t[b]));
      }
    for (int64_t m = row; m < last; m++) {
      U random[SPAN / BLOCK][2] = {};
      for (int b = 0; KIND == RANDOM && b < SPAN / BLOCK; b += 2) row_words(m * columns + k + BLOCK * b, job, random + b);
      for (int64_t at = k; at < end; at += W) {
        load_row<T, SIZE, P>(x + m * x_stride + at, t, flip, factor);
        for (int b = 0; b < P; b++) {
          const int64_t block = (at - k) / BLOCK + b;
          const Scale by = scale_of(spread(shares ? shared[block] : largest_of(t[b])), c);
          for (int i = 0; i < 2; i++) t[b].v[i] = element<KIND>(t[b].v[i], by, random[block][i], c);
          store<KIND>(out + m * out_stride + at + BLOCK * b, t[b], BLOCK, c.rounds);
        }
      }
    }
  }
}

// Blocks along the strided dimension of a transposed matrix: row k of memory is column k of the matrix
INLINE void add_subtract(Pair& one, Pair& two) {
  for (int i = 0; i < 2; i++) {
    F a = one.v[i], b = two.v[i];
    one.v[i] = a + b, two.v[i] = a - b;
  }
}

static void transform(Pair* t, const Job& job, int width) {
  const int size = job.hadamard;
  for (int k = 0; k < width; k++)
    if (job.signs)
      for (F& v : t[k].v) v *= job.signs[k % size];
  for (int k = 0; k < width; k += LANES)
    for (int i = 0; i < 2; i++) {
      F a[LANES];
#pragma GCC unroll 16
      for (int n = 0; n < LANES; n++) a[n] = t[k + n].v[i];
#pragma GCC unroll 4
      for (int half = 1; half < LANES; half *= 2)
#pragma GCC unroll 16
        for (int n = 0; n < LANES; n++)
          if (!(n & half)) {
            F b = a[n], c = a[n + half];
            a[n] = b + c, a[n + half] = b - c;
          }
#pragma GCC unroll 16
      for (int n = 0; n < LANES; n++) t[k + n].v[i] = a[n];
    }
  for (int half = LANES; half < size; half *= 2)
    for (int k = 0; k < width; k++)
      if (!(k & half)) add_subtract(t[k], t[k + half]);
  for (int k = 0; k < width; k++)
    for (F& v : t[k].v) v = v * job.factor + 0.0f;
}

template <Kind KIND> INLINE void round_columns(
    Pair* t, const Job& job, const Constants& c, int64_t column, int64_t row, int64_t count) {  // a block of every lane
  Pair m = {};
  for (int k = 0; k < BLOCK; k++)
    for (int i = 0; i < 2; i++) m.v[i] = value(larger(bits(m.v[i]), magnitude(t[k].v[i])));
  if (job.block_rows > 1) m.v[0] = m.v[1] = value(spread(largest_of(m)));
  const Scale by[2] = {scale_of(bits(m.v[0]), c), scale_of(bits(m.v[1]), c)};
  U low[2] = {}, high[2] = {};
  for (int i = 0; KIND == RANDOM && i < BLOCK; i++) {
    uint64_t counter = (uint64_t)((row + i) * job.columns + column) / 4;
    low[i % 2][i / 2] = (uint32_t)counter, high[i % 2][i / 2] = (uint32_t)(counter >> 32);
  }
  for (int k = 0; k < BLOCK; k += 4) {
    Words words[2] = {};
    for (int i = 0; KIND == RANDOM && i < 2; i++) {
      U next = low[i] + (uint32_t)(k / 4);
      words[i] = philox(next, high[i] - (U)(next < low[i]), job.seed, job.offset);
    }
    for (int n = 0; n < 4; n++) {
      Pair r;
      for (int i = 0; i < 2; i++) r.v[i] = element<KIND>(t[k + n].v[i], by[i], words[i].w[n], c);
      store<KIND>(job.out + (column + k + n) * job.out_stride + row, r, count, c.rounds);
    }
  }
}

template <class T, Kind KIND> static void along_columns(const Job& job, int64_t column, int64_t row) {
  const int width = job.hadamard > BLOCK ? job.hadamard : BLOCK;
  const int64_t end = row + STRIP < job.rows ? row + STRIP : job.rows;
  const Constants c = constants_of<KIND>(job);
  Pair t[128];
  for (; row < end; row += BLOCK) {
    const T* x = (const T*)job.x + column * job.x_stride + row;
    for (int k = 0; k < width; k++) t[k] = load(x + k * job.x_stride, end - row);
    if (job.hadamard) transform(t, job, width);
    for (int k = 0; k < width; k += BLOCK) round_columns<KIND>(t + k, job, c, column + k, row, end - row);
  }
}

// Which of these serves a job, and who works on it
typedef void (*Task)(const Job&, int64_t, int64_t);

template <class T, Kind KIND> static Task task_of(const Job& job) {
  if (job.is_transposed) return along_columns<T, KIND>;
  switch (job.hadamard) {
    case 0: return along_rows<T, 0, KIND>;
    case 16: return along_rows<T, 16, KIND>;
    case 32: return along_rows<T, 32, KIND>;
    case 64: return along_rows<T, 64, KIND>;
    case 128: return along_rows<T, 128, KIND>;
  }
  return nullptr;
}

template <class T> static Task task_of(const Job& job) {
  if (job.is_stochastic) return task_of<T, RANDOM>(job);
  return job.mantissa_bits == 1 && job.prescale == 1.0f ? task_of<T, PLAIN>(job) : task_of<T, NEAREST>(job);
}

struct Shared {
  const Job* job;
  Task task;
  int64_t width, strips, units, grain;  // a unit: block_rows rows, or a strip of `width` columns
  std::atomic<int64_t> next;
};

static void work(void* given) {  // threads take units until none is left: a slow one does not hold up the rest
  Shared& shared = *(Shared*)given;
  const Job& job = *shared.job;
  for (int64_t from; (from = shared.next.fetch_add(shared.grain)) < shared.units;)
    for (int64_t u = from; u < from + shared.grain && u < shared.units; u++) {
      if (job.is_transposed)
        shared.task(job, u / shared.strips * shared.width, u % shared.strips * STRIP);
      else
        shared.task(job, u * job.block_rows, 0);
    }
}

extern "C" int quantize_dequantize(const Job* job) {  // 0; 1 for a transform that does not exist
  Task task = job->is_bf16 ? task_of<uint16_t>(*job) : task_of<float>(*job);
  if (!task) return 1;
  Shared shared{job, task, 0, 0, 0, 1, {0}};
  shared.width = job->hadamard > BLOCK ? job->hadamard : BLOCK;
  shared.strips = (job->rows + STRIP - 1) / STRIP;
  shared.units = job->is_transposed ? shared.strips * (job->columns / shared.width) : job->rows / job->block_rows;
  int64_t per_unit = job->rows * job->columns / (shared.units ? shared.units : 1) + 1;
  shared.grain = (32768 + per_unit - 1) / per_unit;
  int64_t useful = (shared.units + shared.grain - 1) / shared.grain;
  int64_t threads = job->threads < useful ? job->threads : useful;
  if (job->parallel && threads > 1)
    job->parallel(work, &shared, (unsigned)threads, 0);
  else
    work(&shared);
  return 0;
}
