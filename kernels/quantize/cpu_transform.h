// The Hadamard transform with signs, of pairs of vectors as `load` gives them, in the order of kernels/hadamard.py.
// Included by cpu_native.cpp alone.

#pragma once

#include "cpu_vectors.h"

constexpr int64_t NEXT = 2048;  // values between a read and what is fetched meanwhile: sooner than the hardware does

// Along a contiguous row: P pairs of vectors at a time, so that their chains of operations overlap
template <int N> INLINE F stage(F v) {  // of the transform: lane i with lane i ^ N
  U negative = (U)((LANE & (uint32_t)N) != 0u) & SIGN;
  return swapped<N>(v) + value(bits(v) ^ negative);
}

template <class T, int SIZE, int P> INLINE void load_row(const T* x, Pair t[P], const U flip[][2], float factor) {
  for (int b = 0; b < P; b++) {
    t[b] = load(x + BLOCK * b);
    const char* later = (const char*)(x + BLOCK * b + NEXT);
    for (size_t line = 0; line < BLOCK * sizeof(T); line += 64) __builtin_prefetch(later + line);
    __asm__ volatile("" ::: "memory");  // load in the order of addresses, which the hardware prefetches
  }
  if (!SIZE) return;
  for (int b = 0; b < P; b++) {
    const U* signs = flip[b % (SIZE > BLOCK ? SIZE / BLOCK : 1)];
    F even = value(bits(t[b].v[0]) ^ signs[0]), odd = value(bits(t[b].v[1]) ^ signs[1]);
    t[b] = {{even + odd, even - odd}};
  }
  for (int b = 0; b < 2 * P; b++) t[b / 2].v[b % 2] = stage<1>(t[b / 2].v[b % 2]);
  for (int b = 0; b < 2 * P; b++) t[b / 2].v[b % 2] = stage<2>(t[b / 2].v[b % 2]);
  for (int b = 0; b < 2 * P; b++) t[b / 2].v[b % 2] = stage<4>(t[b / 2].v[b % 2]);
  for (int b = 0; b < 2 * P && SIZE > LANES; b++) t[b / 2].v[b % 2] = stage<8>(t[b / 2].v[b % 2]);
  for (int half = 1; half < SIZE / BLOCK; half *= 2)
    for (int b = 0; b < P; b++)
      if (!(b & half)) add_subtract(t[b], t[b + half]);
  for (int b = 0; b < P; b++)
    for (F& v : t[b].v) v = v * factor + 0.0f;
}

template <int SIZE> INLINE void flips_of(const Job& job, U flip[][2]) {  // the signs, of at least one pair
  for (int i = 0; SIZE && job.signs && i < (SIZE > BLOCK ? SIZE : BLOCK); i++)
    flip[i / BLOCK][i % 2][i % BLOCK / 2] = job.signs[i % SIZE] < 0 ? SIGN : 0;
}

// Along the strided dimension of a transposed matrix: row k of memory is column k of the matrix
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

INLINE void transpose(U v[LANES]) {  // 16 x 16: four times the first half interleaved with the second
  for (int round = 0; round < 4; round++) {
    U w[LANES];
    for (int i = 0; i < LANES / 2; i++) {
      w[2 * i] = pick<0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23>(v[i], v[i + 8]);
      w[2 * i + 1] = pick<8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31>(v[i], v[i + 8]);
    }
    for (int i = 0; i < LANES; i++) v[i] = w[i];
  }
}
