// Scales of NVFP4 under the roundings ms-eden and ms-eden-weighted, equal to nvfp4._eden in every bit for finite
// values; elements are rounded to nearest. Included by cpu_native.cpp alone.

#pragma once

#include "cpu_nvfp4.h"

struct EdenScale { F scale, inverse; };  // before the correction; of a block in each lane

INLINE EdenScale eden_scale_of(U largest, const Job& job) {
  const F scale = e4m3_of(value(largest) / EDEN_LARGEST / job.decode, false).value;
  const F used = choose((U)(scale == 0.0f), F{} + 1.0f, scale);
  return {used, 1.0f / (used * job.decode)};
}

struct Projection { F energy, onto; };  // sums of z z and z q, z being scaled values and q their elements

INLINE Projection eden_terms(F x, const EdenScale& s, const Job& job) {
  const F z = x * s.inverse, q = nearest_e2m1(x, s.inverse);
  if (job.rule != EDEN_WEIGHTED) return {z * z, z * q};
  const F weight = s.scale * s.scale;
  return {z * z * weight, z * q * weight};
}

INLINE NvScale eden_corrected(const EdenScale& s, const Projection& sum, U random, const Job& job) {
  const F correction = choose((U)(sum.onto == 0.0f), F{} + 1.0f, sum.energy / sum.onto);
  return nv_scale(e4m3_by_chance(s.scale * correction, random), s.inverse, U{}, job);
}

INLINE void eden_words(const Job& job, int64_t block, int count, uint32_t* out) {  // at most 28 blocks in sequence
  const D counter[1] = {COUNT + (uint64_t)block / 4};
  Words words[1];
  philox<1>(counter, job, words);
  for (int64_t i = 0; i < count; i++) out[i] = (uint32_t)words[0].w[(block + i) % 4][(block % 4 + i) / 4];
}

// Along a row: P pairs, whole groups of the transform. m: their largest magnitudes; block: the index of the first block
template <int P> APART void eden_scales(const Pair* t, const U* m, int64_t block, const Job& job, NvScale* by) {
  const int per_group = job.hadamard > BLOCK ? job.hadamard / BLOCK : 1;  // pairs
  uint32_t word[2 * P];
  eden_words(job, block, 2 * P, word);
  EdenScale s[P];
  F energy[P], onto[P];
  for (int b = 0; b < P; b++) {
    s[b] = eden_scale_of(half_largest(m[b]), job);
    const Projection even = eden_terms(t[b].v[0], s[b], job), odd = eden_terms(t[b].v[1], s[b], job);
    energy[b] = half_sum(even.energy + odd.energy), onto[b] = half_sum(even.onto + odd.onto);
    if (job.hadamard >= BLOCK) energy[b] = energy[b] + swapped<8>(energy[b]), onto[b] = onto[b] + swapped<8>(onto[b]);
  }
  for (int g = 0; g < P; g += per_group) {
    const Projection sum = {tree_sum(energy + g, per_group), tree_sum(onto + g, per_group)};
    for (int b = g; b < g + per_group && b < P; b++) {
      const U random = selected((U)(LANE >= 8u), all(word[2 * b + 1]), all(word[2 * b]));
      by[b] = eden_corrected(s[b], sum, random, job);
    }
  }
}

// Along columns: the blocks of `width` steps in 32 rows, of which `count` exist
APART void eden_column_scales(
    const Pair* t, const Job& job, int64_t column, int64_t row, int64_t count, int width, NvScale by[8][2]) {
  const int blocks = width / NV_BLOCK, per_group = job.hadamard / NV_BLOCK;
  U random[8][2] = {};
  for (int64_t r = 0; r < count && r < BLOCK; r++) {
    uint32_t word[8];
    eden_words(job, ((row + r) * job.columns + column) / NV_BLOCK, blocks, word);
    for (int b = 0; b < blocks; b++) random[b][r % 2][r / 2] = word[b];
  }
  for (int i = 0; i < 2; i++)
    for (int g = 0; g < blocks; g += per_group) {
      EdenScale s[8];
      F energy[128], onto[128];
      for (int b = 0; b < per_group; b++) {
        const Pair* of_block = t + (g + b) * NV_BLOCK;
        U m = {};
        for (int k = 0; k < NV_BLOCK; k++) m = larger(m, magnitude(of_block[k].v[i]));
        s[b] = eden_scale_of(m, job);
        for (int k = 0; k < NV_BLOCK; k++) {
          const Projection terms = eden_terms(of_block[k].v[i], s[b], job);
          energy[b * NV_BLOCK + k] = terms.energy, onto[b * NV_BLOCK + k] = terms.onto;
        }
      }
      const Projection sum = {tree_sum(energy, job.hadamard), tree_sum(onto, job.hadamard)};
      for (int b = 0; b < per_group; b++) by[g + b][i] = eden_corrected(s[b], sum, random[g + b][i], job);
    }
}
