// FP8 with one scale for the whole matrix, equal to reference.quantize_fp8 in every bit. Included by cpu_native.cpp alone.
//
// A job has rows = block_rows = 1 and takes `columns` values that are contiguous, in any order of the matrix. A first pass
// finds the largest magnitude, a second one divides by the scale and rounds to the element.

#pragma once

#include "cpu_vectors.h"

typedef uint16_t Halves __attribute__((vector_size(32)));

constexpr int64_t FP8_UNIT = 4096;  // values that a thread takes at a time

static void raise_to(const Job& job, uint32_t found) {  // *job.scale, from any thread
  uint32_t* shared = (uint32_t*)job.scale;  // magnitude bits: the largest number has the largest bits, NaN larger ones
  uint32_t before = __atomic_load_n(shared, __ATOMIC_RELAXED);
  while (before < found &&
         !__atomic_compare_exchange_n(shared, &before, found, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
  }
}

template <class T> static void largest_magnitude(const Job& job, int64_t unit, int64_t) {  // adds its unit to *job.scale
  const T* x = (const T*)job.x;
  const int64_t end = job.columns < (unit + 1) * FP8_UNIT ? job.columns : (unit + 1) * FP8_UNIT;
  U largest = {};
  for (int64_t at = unit * FP8_UNIT; at < end; at += BLOCK) {
    const Pair t = load(x + at, end - at);
    largest = larger(largest, larger(magnitude(t.v[0]), magnitude(t.v[1])));
  }
  uint32_t found = 0;
  for (int i = 0; i < LANES; i++) found = found < largest[i] ? largest[i] : found;
  raise_to(job, found);
}

static void scale_of_largest(const Job& job) {
  const float largest = *job.scale;
  *job.scale = largest > 0.0f ? largest / job.largest : 1.0f;  // 1 where the largest is NaN
}

struct Fp8 { U bits, code; };  // the element as FP32, and its code

INLINE Fp8 fp8_of(F x, F scale, const Constants& c) {
  const U scaled = bits(value(magnitude(x)) / scale), nan = (U)(scaled > EXPONENT);
  const U capped = smaller(scaled, all(c.largest)), binade = larger(capped & EXPONENT, all(c.smallest));
  const F base = value(binade + c.to_base), sum = value(capped) + base;
  const U steps = bits(sum) - bits(base), exponent = ((binade - c.smallest) >> 23) << (c.to_step >> 23);
  const U sign = bits(x) & SIGN;
  return {(nan ? all(QUIET_NAN) : bits(sum - base)) | sign, (nan ? all(0x7Fu) : exponent + steps) | sign >> 24};
}

template <class T> static void cast_to_fp8(const Job& job, int64_t unit, int64_t) {
  const Constants c = constants_of<NEAREST>(job);
  const F scale = F{} + *job.scale;
  const T* x = (const T*)job.x;
  const int64_t end = job.columns < (unit + 1) * FP8_UNIT ? job.columns : (unit + 1) * FP8_UNIT;
  for (int64_t at = unit * FP8_UNIT; at < end; at += BLOCK) {
    const Pair t = load(x + at, end - at);
    const Fp8 even = fp8_of(t.v[0], scale, c), odd = fp8_of(t.v[1], scale, c);
    const int64_t count = end - at < BLOCK ? end - at : BLOCK;
    if (job.codes) {
      const Halves codes = __builtin_convertvector(even.code | odd.code << 8, Halves);
      std::memcpy(job.codes + at, &codes, count);
    } else {
      const U pairs = even.bits >> 16 | (odd.bits & UPPER);
      std::memcpy(job.out + at, &pairs, count * sizeof *job.out);
    }
  }
}

INLINE U value_of_fp8(U code, const Constants& c) {  // FP32 bits
  const U m = code & 0x7Fu, fraction = (m << 23) >> (c.to_step >> 23);
  const F subnormal = __builtin_convertvector((I)m, F) * value(all(c.smallest - c.to_step));
  const U normal = fraction + (c.smallest - (1u << 23));
  const U finite = m < all(1u << (c.to_step >> 23)) ? bits(subnormal) : normal;
  const U e5m2 = EXPONENT | (m & 3u) << 21;  // has an infinity
  const U special = c.to_step == 3u << 23 ? (m == 0x7Fu ? all(QUIET_NAN) : finite) : (m >= 0x7Cu ? e5m2 : finite);
  return special | (code & 0x80u) << 24;
}

static void values_of_fp8(const Job& job, int64_t unit, int64_t) {
  const Constants c = constants_of<NEAREST>(job);
  const int64_t end = job.columns < (unit + 1) * FP8_UNIT ? job.columns : (unit + 1) * FP8_UNIT;
  for (int64_t at = unit * FP8_UNIT; at < end; at += BLOCK) {
    const int64_t count = end - at < BLOCK ? end - at : BLOCK;
    Halves codes = {};
    std::memcpy(&codes, job.codes + at, count);
    const U both = __builtin_convertvector(codes, U);
    const U pairs = value_of_fp8(both & 0xFFu, c) >> 16 | (value_of_fp8(both >> 8, c) & UPPER);
    std::memcpy(job.out + at, &pairs, count * sizeof *job.out);
  }
}
