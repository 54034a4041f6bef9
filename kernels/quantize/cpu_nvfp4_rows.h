// NVFP4 values of finite numbers along contiguous rows, which training needs most. cpu_native.cpp includes this and
// has the other cases: codes, transforms, square blocks, Four Over Six, random rounding, numbers that are not finite.
//
// A vector holds one block of 16 values in their order. A part of a row is read twice while it lies in the cache: first
// for its scales, so that the long chain of operations from values to scales overlaps with that of the next group.

#pragma once

#include "cpu_fp8.h"
#include "cpu_nvfp4.h"

constexpr int64_t GROUP = 256;   // values whose 16 scales fill a vector
constexpr int64_t PART = 1024;   // values read twice
constexpr int64_t AHEAD = 4096;  // values between a read and what is fetched meanwhile

typedef uint16_t Shorts __attribute__((vector_size(64)));

INLINE Shorts larger(Shorts a, Shorts b) { return a > b ? a : b; }

INLINE F natural(const float* p) {
  F v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
INLINE F natural(const uint16_t* p) {  // BF16
  Halves v;
  std::memcpy(&v, p, sizeof v);
  return value(__builtin_convertvector(v, U) << 16);
}

// The largest magnitude of each of 16 blocks; lanes are V: 32 bits, or two BF16 of one block
template <class V> INLINE U quarters_of(U a, U b) {
  return (U)larger((V)pick<0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27>(a, b),
                   (V)pick<4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31>(a, b));
}
template <class V> INLINE U eighths_of(U a, U b) {
  return (U)larger((V)pick<0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29>(a, b),
                   (V)pick<2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31>(a, b));
}
template <class V> INLINE U sixteenths_of(U a, U b) {
  return (U)larger((V)pick<0, 2, 16, 18, 4, 6, 20, 22, 8, 10, 24, 26, 12, 14, 28, 30>(a, b),
                   (V)pick<1, 3, 17, 19, 5, 7, 21, 23, 9, 11, 25, 27, 13, 15, 29, 31>(a, b));
}
template <class V> INLINE U largest_of_blocks(const U m[8]) {  // m[j]: blocks 2j and 2j + 1, eight lanes each
  U q[4];
  for (int j = 0; j < 4; j++) q[j] = quarters_of<V>(m[j], m[j + 4]);
  const U s = sixteenths_of<V>(eighths_of<V>(q[0], q[1]), eighths_of<V>(q[2], q[3]));
  return pick<0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15>(s, s);  // in the order of the blocks
}

INLINE U largest_of_group(const float* x) {
  U m[8];
  for (int j = 0; j < 8; j++) {
    const U a = magnitude(natural(x + BLOCK * j)), b = magnitude(natural(x + BLOCK * j + LANES));
    m[j] = larger(pick<0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23>(a, b),
                  pick<8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31>(a, b));
  }
  return largest_of_blocks<U>(m);
}
INLINE U largest_of_group(const uint16_t* x) {
  U m[8];
  for (int j = 0; j < 8; j++) m[j] = *(const Unaligned*)(x + BLOCK * j) & 0x7FFF7FFFu;
  const U twos = largest_of_blocks<Shorts>(m);
  return larger(twos << 16, twos & UPPER);
}
template <class T> INLINE U largest_of_group(const T* x, int64_t count) {
  if (count >= GROUP) return largest_of_group(x);
  T padded[GROUP] = {};
  std::memcpy(padded, x, count * sizeof(T));
  return largest_of_group(padded);
}

INLINE F element_times(F x, float inverse, float scale) {  // as `element`, for finite x
#ifdef __AVX512DQ__
  const __m512 scaled = _mm512_range_ps((__m512)(x * inverse), _mm512_set1_ps(6.0f), 2);  // at most 6, with x's sign
  const __m512 binade = (__m512)larger(bits((F)scaled) & EXPONENT, all(127u << 23));
  const __m512 to_base = _mm512_set1_ps(0x1.8p22f);
  const F r = (F)_mm512_fnmadd_ps(binade, to_base, _mm512_fmadd_ps(binade, to_base, scaled));  // products are exact
#else
  const U capped = smaller(bits(value(magnitude(x)) * inverse), all(0x40C00000u));  // 6
  const F base = value(larger(capped & EXPONENT, all(127u << 23)) + (22u << 23));
  const F r = (value(capped) + base) - base;
#endif
  return value(bits(r * scale) | (bits(x) & SIGN));  // the sign of 0 as well
}

INLINE U bf16_of(F a, F b, [[maybe_unused]] bool rounds) {  // 32 values in their order
#ifdef __AVX512BF16__
  return (U)_mm512_cvtne2ps_pbh((__m512)b, (__m512)a);  // would make subnormals 0: there are none in a moderate job
#else
  return packed<NVFP4>({{evens(a, b), odds(a, b)}}, rounds);
#endif
}

template <class T> static void nv_plain_row(const Job& given, int64_t row, int64_t) {
  const Job job = given;  // a copy that no store can change
  alignas(64) float inverse[PART / NV_BLOCK], scale[PART / NV_BLOCK];
  for (int64_t part = 0; part < job.columns; part += PART) {
    const T* x = (const T*)job.x + row * job.x_stride + part;
    uint16_t* out = job.out + row * job.out_stride + part;
    const int64_t count = job.columns - part < PART ? job.columns - part : PART;
    for (int64_t at = 0; at < count; at += GROUP) {
      const NvScale s = nv_scale_of(largest_of_group(x + at, count - at), job);
      std::memcpy(inverse + at / NV_BLOCK, &s.inverse, sizeof s.inverse);
      std::memcpy(scale + at / NV_BLOCK, &s.scale, sizeof s.scale);
    }
    for (int64_t at = 0; at < count; at += BLOCK) {
      const char* later = (const char*)(x + at + AHEAD);
      for (size_t line = 0; line < BLOCK * sizeof(T); line += 64) __builtin_prefetch(later + line);
      const int64_t n = at / NV_BLOCK;
      const F first = element_times(natural(x + at), inverse[n], scale[n]);
      const F second = element_times(natural(x + at + LANES), inverse[n + 1], scale[n + 1]);
      *(Unaligned*)(out + at) = bf16_of(first, second, job.is_scaled);
    }
  }
}

// Whether nv_plain_row gives a job's values
static bool nv_is_plain(const Job& job, bool is_moderate) {
  const bool is_nearest = !job.is_stochastic && job.rule <= RCEIL && job.prescale == 1.0f;
  return is_moderate && is_nearest && !job.codes && !job.is_transposed && !job.hadamard && job.block_rows == 1;
}
