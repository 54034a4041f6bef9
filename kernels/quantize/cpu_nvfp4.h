// NVFP4's scales, equal to kernels/quantize/nvfp4.py in every bit. Included by cpu_native.cpp alone.
//
// A block is 16 elements: half of a pair along a row, lanes 0..7 and 8..15 of both vectors; 16 steps of every lane along a
// column. A first pass finds the tensor's largest magnitude.

#pragma once

#include "cpu_vectors.h"

constexpr int NV_BLOCK = 16;
constexpr uint32_t LARGEST_FINITE = 0x7F7FFFFFu;
constexpr float SIXTH = 0.16666667163372040f;  // 1 / 6 in FP32
constexpr float EDEN_LARGEST = 6.0 / (17.0 / 16.0 * 0.93);  // nvfp4.EDEN_LARGEST

struct E4m3 { U code; F value; };

INLINE E4m3 e4m3_by_chance(F x, U random) {  // x >= 0, saturating; words of 0 round up
  const U capped = smaller(bits(x), all(0x43E00000u)), binade = larger(capped & EXPONENT, all(121u << 23));  // 448
  const F exact = value(capped) * value((257u << 23) - binade);
  const F whole = __builtin_convertvector(__builtin_convertvector(exact, I), F);
  const F chance = __builtin_convertvector((I)(random >> 8), F) * 0x1p-24f;
  const F steps = whole + value((U)((exact - whole) > chance) & 0x3F800000u);  // 1
  const U exponent = (binade - (121u << 23)) >> 20;
  return {exponent + (U)__builtin_convertvector(steps, I), steps * value(binade - (3u << 23))};
}

INLINE E4m3 e4m3_of(F x, bool upward) {  // x >= 0, saturating
  if (upward) return e4m3_by_chance(x, U{});
  const U capped = smaller(bits(x), all(0x43E00000u)), binade = larger(capped & EXPONENT, all(121u << 23));
  const F base = value(binade + (20u << 23)), sum = value(capped) + base;
  return {((binade - (121u << 23)) >> 20) + (bits(sum) - bits(base)), sum - base};
}

INLINE F at_most_finite(F x) { return value(smaller(bits(x), all(LARGEST_FINITE))); }  // x >= 0 or NaN

struct NvScale { F inverse, scale; U byte; };  // scale: what an element is multiplied by

INLINE NvScale nv_scale(const E4m3& s, F inverse, U bad, const Job& job) {
  F scale = s.value;
  if (job.codes) scale = F{} + 1.0f;
  else if (job.is_scaled) scale = s.value * job.decode;
  return {inverse, choose(bad, value(all(QUIET_NAN)), scale), (bad & 0x7Fu) | (s.code & ~bad)};
}

INLINE NvScale nv_scale_of(U largest, const Job& job) {  // of magnitude bits, a block's in each lane; even and rceil
  const U bad = (U)(largest >= EXPONENT);
  F exact = value(largest & ~bad) / 6.0f;
  if (job.nvfp4 == TORCHAO) exact = value(larger(bits(exact / job.decode), all(0x3C800000u)));  // 2^-6
  else exact = exact * job.encode;
  const E4m3 s = e4m3_of(exact, job.rule == RCEIL);
  const F inverse = job.nvfp4 == TORCHAO ? job.encode / s.value : 1.0f / (s.value * job.decode);
  return nv_scale(s, at_most_finite(inverse), bad, job);
}

struct Candidate { E4m3 s; F inverse, descale; };

INLINE Candidate candidate(U largest, float by, const Job& job) {
  const E4m3 s = e4m3_of(value(largest) * by * job.encode, false);
  const F divisor = choose((U)(s.value == 0.0f), F{} + 1.0f, s.value) * job.decode;
  return {s, at_most_finite(1.0f / divisor), s.value * job.decode};
}

INLINE F nearest_e2m1(F x, F inverse) {
  const U capped = smaller(bits(value(magnitude(x)) * inverse), all(0x40C00000u));  // 6
  const F base = value(larger(capped & EXPONENT, all(127u << 23)) + (22u << 23));
  return value(bits((value(capped) + base) - base) | (bits(x) & SIGN));
}

INLINE F squared(F x, const Candidate& c) {
  const F difference = x - nearest_e2m1(x, c.inverse) * c.descale;
  return difference * difference;
}

INLINE NvScale better(const Candidate& six, const Candidate& four, F six_error, F four_error, U bad, const Job& job) {
  const U take = (U)(four_error < six_error);
  const E4m3 s = {(four.s.code & take) | (six.s.code & ~take), choose(take, four.s.value, six.s.value)};
  return nv_scale(s, choose(take, four.inverse, six.inverse), bad, job);
}

INLINE U half_largest(U m) {  // of lanes 0..7 and of 8..15, in each of them
  m = larger(m, swapped<4>(m)), m = larger(m, swapped<2>(m));
  return larger(m, swapped<1>(m));
}
INLINE U finite_of_halves(U m) {  // `half_largest`, 0 for blocks that are not finite
  m = half_largest(m);
  return (U)(m < EXPONENT) & m;
}

INLINE NvScale nv_four_six(const Pair& t, U largest, const Job& job) {  // a block in each half of the lanes
  const U bad = (U)(largest >= EXPONENT);
  const Candidate six = candidate(largest & ~bad, SIXTH, job), four = candidate(largest & ~bad, 0.25f, job);
  const F errors[2] = {half_sum(squared(t.v[0], six) + squared(t.v[1], six)),
                       half_sum(squared(t.v[0], four) + squared(t.v[1], four))};
  return better(six, four, errors[0], errors[1], bad, job);
}

INLINE NvScale nv_four_six(const Pair* t, int i, U largest, const Job& job) {  // a block in 16 steps of each lane
  const U bad = (U)(largest >= EXPONENT);
  const Candidate six = candidate(largest & ~bad, SIXTH, job), four = candidate(largest & ~bad, 0.25f, job);
  F first[NV_BLOCK], second[NV_BLOCK];
  for (int k = 0; k < NV_BLOCK; k++) first[k] = squared(t[k].v[i], six), second[k] = squared(t[k].v[i], four);
  return better(six, four, tree_sum(first, NV_BLOCK), tree_sum(second, NV_BLOCK), bad, job);
}

// Scales of eight pairs at once, 16 blocks in one vector: pair b, half h at lane 8 h + 4 (b & 1) + 2 (b >> 1 & 1) + (b >> 2)
INLINE U selected(U mask, U yes, U no) { return (yes & mask) | (no & ~mask); }

template <int B, class V> INLINE V of_pair(V v) {
  constexpr int A = 4 * (B & 1) + 2 * (B >> 1 & 1) + (B >> 2), C = A + 8;
  return pick<A, A, A, A, A, A, A, A, C, C, C, C, C, C, C, C>(v, v);
}
template <int B> INLINE NvScale of_pair(const NvScale& s, const Job& job) {
  return {of_pair<B>(s.inverse), of_pair<B>(s.scale), job.codes ? of_pair<B>(s.byte) : s.byte};
}

INLINE void nv_scales_of_eight(const U m[8], NvScale by[8], const Job& job) {
  const U fourth = (U)((LANE & 4u) != 0u), second = (U)((LANE & 2u) != 0u), first = (U)((LANE & 1u) != 0u);
  U q[8], h[4], w[2];
  for (int b = 0; b < 8; b++) q[b] = larger(m[b], swapped<4>(m[b]));
  for (int b = 0; b < 4; b++) h[b] = selected(fourth, q[2 * b + 1], q[2 * b]), h[b] = larger(h[b], swapped<2>(h[b]));
  for (int b = 0; b < 2; b++) w[b] = selected(second, h[2 * b + 1], h[2 * b]), w[b] = larger(w[b], swapped<1>(w[b]));
  const NvScale s = nv_scale_of(selected(first, w[1], w[0]), job);
  by[0] = of_pair<0>(s, job), by[1] = of_pair<1>(s, job), by[2] = of_pair<2>(s, job), by[3] = of_pair<3>(s, job);
  by[4] = of_pair<4>(s, job), by[5] = of_pair<5>(s, job), by[6] = of_pair<6>(s, job), by[7] = of_pair<7>(s, job);
}

INLINE U e2m1_code(F element) {  // of a value that is an element
  const U twice = (U)__builtin_convertvector(value(magnitude(element)) * 2.0f, I);
  return (twice - ((larger(twice, all(4)) - 4u) >> 1) - ((larger(twice, all(8)) - 8u) >> 2)) | (bits(element) >> 31 << 3);
}

INLINE void nv_store_codes(const Job& job, int64_t row, int64_t column, U pairs, U byte) {  // byte: of each lane's block
  const U both = e2m1_code(value(pairs << 16)) | e2m1_code(value(pairs & UPPER)) << 4;
  const Bytes codes = __builtin_convertvector((U)(byte != 0x7Fu) & both, Bytes);
  std::memcpy(job.codes + (row * job.columns + column) / 2, &codes, sizeof codes);
}

INLINE U nv_pairs_of(const Job& job, int64_t row, int64_t column) {
  Bytes codes;
  std::memcpy(&codes, job.codes + (row * job.columns + column) / 2, sizeof codes);
  const uint8_t* scales = job.scales + (row * job.columns + column) / NV_BLOCK;
  const U byte = selected((U)(LANE >= 8u), all(scales[1]), all(scales[0]));
  const F normal = value((byte << 20) + (120u << 23)), small = __builtin_convertvector((I)byte, F) * 0x1p-9f;
  const F finite = choose((U)(byte < 8u), small, normal), scale = choose((U)(byte == 0x7Fu), value(all(QUIET_NAN)), finite);
  const U both = __builtin_convertvector(codes, U);
  U half[2];
  for (int i = 0; i < 2; i++) {
    const U code = both >> (4 * i), n = code & 7u;
    const U twice = n + (larger(n, all(4)) - 4u) + 2u * (larger(n, all(6)) - 6u);
    half[i] = bits(__builtin_convertvector((I)twice, F) * 0.5f * scale) | (code & 8u) << 28;
  }
  return half[0] >> 16 | (half[1] & UPPER);
}

static void nv_tensor_scales(Job& job) {  // from the largest magnitude, which is in *job.scale
  const float top = *job.scale;
  job.encode = job.decode = 1.0f;
  if (top > 0.0f && job.nvfp4 != NO_TENSOR_SCALE) {
    if (job.rule >= EDEN) job.decode = top / 255.99f / EDEN_LARGEST, job.encode = 1.0f / job.decode;
    else if (job.rule == FOUR_SIX) job.decode = top * 0x1p-8f * SIXTH, job.encode = 1.0f / job.decode;
    else if (job.nvfp4 == TORCHAO) job.decode = top / 2688.0f, job.encode = 1.0f / job.decode;
    else {
      job.encode = 2688.0f / top;
      if (job.encode > 3.4028234663852886e38f) job.encode = 3.4028234663852886e38f;
      job.decode = 1.0f / job.encode;
    }
    if (job.encode > 3.4028234663852886e38f) job.encode = 3.4028234663852886e38f;
  }
  *job.scale = job.decode;
}
