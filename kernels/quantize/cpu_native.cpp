// Quantise to MX values in BF16, or to E2M1 codes and scales, in one pass, equal to kernels/quantize/reference.py in every
// bit; and codes and scales to values. FP8 with one scale for the matrix: cpu_fp8.h. Built by cpu_build.py.
//
// Two orientations: blocks along a contiguous row (a pair of vectors is a block), and blocks along the strided
// dimension of a transposed matrix (a pair is 32 blocks side by side). Never compile with -ffast-math or contraction:
// the order of additions, subnormals and the sign of zero are specified.

#include <atomic>

#include "cpu_fp8.h"
#include "cpu_nvfp4.h"
#include "cpu_nvfp4_eden.h"
#include "cpu_nvfp4_rows.h"
#include "cpu_transform.h"
#include "cpu_vectors.h"

constexpr int64_t STRIP = 2048;  // rows of a transposed matrix that a thread takes at a time

// Blocks along a contiguous row, P of them at a time: their chains of operations overlap
INLINE U spread(U m) {  // the largest of all lanes, in every lane
  m = larger(m, swapped<8>(m)), m = larger(m, swapped<4>(m));
  m = larger(m, swapped<2>(m));
  return larger(m, swapped<1>(m));
}
INLINE U halves(U a, U b) {  // the larger halves of both, side by side
  return larger(pick<0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23>(a, b),
                pick<8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31>(a, b));
}
INLINE U quarters(U a, U b) {
  return larger(pick<0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27>(a, b),
                pick<4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31>(a, b));
}
template <int Q> INLINE F quad(F v) {  // lanes 4Q .. 4Q + 3, four times
  return pick<4 * Q, 4 * Q + 1, 4 * Q + 2, 4 * Q + 3, 4 * Q, 4 * Q + 1, 4 * Q + 2, 4 * Q + 3, 4 * Q, 4 * Q + 1,
              4 * Q + 2, 4 * Q + 3, 4 * Q, 4 * Q + 1, 4 * Q + 2, 4 * Q + 3>(v, v);
}

template <int P> INLINE void scales_of(const U* m, Scale by[P], const Constants& c) {
  if (P < 4) {
    for (int b = 0; b < P; b++) by[b] = scale_of(spread(m[b]), c);
    return;
  }
  U q = quarters(halves(m[0], m[1]), halves(m[P > 2 ? 2 : 0], m[P > 3 ? 3 : 0]));  // four lanes for each block
  q = larger(q, swapped<2>(q));
  const Scale s = scale_of(larger(q, swapped<1>(q)), c);
  by[0] = {quad<0>(s.inverse), quad<0>(s.scale)}, by[P > 1] = {quad<1>(s.inverse), quad<1>(s.scale)};
  by[P - 2] = {quad<2>(s.inverse), quad<2>(s.scale)}, by[P - 1] = {quad<3>(s.inverse), quad<3>(s.scale)};
}

template <Kind KIND> struct Scales {  // of P pairs from their magnitudes m
  typedef Scale One;
  static constexpr int AT_ONCE = 4;  // pairs
  template <int P>
  static INLINE_MEMBER void of(const Job& job, const Constants& c, const Pair* t, const U* m, int64_t, One* by) {
    if (KIND == PLAIN || job.rule != LEAST_ERROR) return scales_of<P>(m, by, c);
    for (int b = 0; b < P; b++) by[b] = least_error(t[b], spread(m[b]), c);
  }
  static INLINE_MEMBER void store(const Job& job, int64_t row, int64_t column, U pairs, const One& by) {
    store_codes(job, row, column, pairs, by.inverse[0], by.scale[0]);
  }
};
template <bool IS_RANDOM> struct NvScales {
  typedef NvScale One;
  static constexpr int AT_ONCE = 8;
  template <int P>
  static INLINE_MEMBER void of(const Job& job, const Constants&, const Pair* t, const U* m, int64_t block, One* by) {
    if (!IS_RANDOM && P < AT_ONCE && job.rule >= EDEN)  // along_rows takes so many at once under other rules alone
      eden_scales<P>(t, m, block, job, by);
    else if (job.rule == FOUR_SIX)
      for (int b = 0; b < P; b++) by[b] = nv_four_six(t[b], half_largest(m[b]), job);
    else if (P == 8)
      nv_scales_of_eight(m, by, job);
    else
      for (int b = 0; b < P; b++) by[b] = nv_scale_of(half_largest(m[b]), job);
  }
  static INLINE_MEMBER void store(const Job& job, int64_t row, int64_t column, U pairs, const One& by) {
    nv_store_codes(job, row, column, pairs, by.byte);
    uint8_t* scales = job.scales + (row * job.columns + column) / NV_BLOCK;
    scales[0] = (uint8_t)by.byte[0], scales[1] = (uint8_t)by.byte[8];
  }
};
template <> struct Scales<NVFP4> : NvScales<false> {};
template <> struct Scales<NVFP4_RANDOM> : NvScales<true> {};

template <class T, int SIZE, Kind KIND, int P> INLINE void group(  // P blocks from `at`, of all rows of a block
    const Job& job, const Constants& c, const U flip[][2], int64_t row, int64_t at) {
  const int64_t last = row + job.block_rows;
  const T* x = (const T*)job.x + at;
  uint16_t* out = job.out + at;
  Pair t[P];
  U m[P] = {};
  typename Scales<KIND>::One by[P];
  for (int64_t r = row; r < last; r++) {
    load_row<T, SIZE, P>(x + r * job.x_stride, t, flip, job.factor);
    for (int b = 0; b < P; b++) m[b] = larger(m[b], largest_of(t[b]));
  }
  Scales<KIND>::template of<P>(job, c, t, m, (row * job.columns + at) / NV_BLOCK, by);
  for (int64_t r = row; r < last; r++) {
    if (job.block_rows > 1) load_row<T, SIZE, P>(x + r * job.x_stride, t, flip, job.factor);
    D counter[P];
    for (int b = 0; b < P; b++) counter[b] = COUNT + (uint64_t)(r * job.columns + at + BLOCK * b) / 4;
    Words words[P] = {};
    if (is_random(KIND)) philox<P>(counter, job, words);
    for (int b = 0; b < P; b++) {
      for (int i = 0; i < 2; i++)
        t[b].v[i] = element<KIND>(t[b].v[i], by[b], joined(words[b].w[i], words[b].w[i + 2]), c);
      const U pairs = packed<KIND>(t[b], c.rounds);
      if (job.codes)
        Scales<KIND>::store(job, r, at + BLOCK * b, pairs, by[b]);
      else
        *(Unaligned*)(out + r * job.out_stride + BLOCK * b) = pairs;
    }
  }
}

template <class T, int SIZE, Kind KIND> static void along_rows(const Job& given, int64_t row, int64_t) {
  constexpr int LEAST = SIZE > BLOCK ? SIZE / BLOCK : 1;
  const Job job = given;  // a copy that no store can change
  const Constants c = constants_of<KIND>(job);
  U flip[LEAST][2] = {};
  flips_of<SIZE>(job, flip);
  int64_t at = 0;
  if (job.block_rows == 1 && job.rule < EDEN) {
    Job single = job, values = job;
    single.block_rows = values.block_rows = 1, values.codes = nullptr;  // now constants for the compiler
    constexpr int P = Scales<KIND>::AT_ONCE, STEP = P * BLOCK;
    if (job.codes)
      for (; at + STEP <= job.columns; at += STEP) group<T, SIZE, KIND, P>(single, c, flip, row, at);
    else
      for (; at + STEP <= job.columns; at += STEP) group<T, SIZE, KIND, P>(values, c, flip, row, at);
  }
  for (; at < job.columns; at += LEAST * BLOCK) group<T, SIZE, KIND, LEAST>(job, c, flip, row, at);
}

// Blocks along the strided dimension of a transposed matrix: row k of memory is column k of the matrix
template <Kind KIND> INLINE void column_scales(const Pair* t, const Job& job, const Constants& c, Scale by[2]) {
  Pair m = {};
  for (int k = 0; k < BLOCK; k++)
    for (int i = 0; i < 2; i++) m.v[i] = value(larger(bits(m.v[i]), magnitude(t[k].v[i])));
  if (job.block_rows > 1) m.v[0] = m.v[1] = value(spread(largest_of(m)));
  const bool compares = KIND != PLAIN && job.rule == LEAST_ERROR;
  for (int i = 0; i < 2; i++) {
    const U largest = bits(m.v[i]);
    by[i] = compares ? least_error(t, i, largest, c) : scale_of(largest, c);
  }
}
template <Kind KIND> INLINE void column_scales(const Pair* t, const Job& job, const Constants&, NvScale by[2]) {
  U m[2] = {};
  for (int k = 0; k < NV_BLOCK; k++)
    for (int i = 0; i < 2; i++) m[i] = larger(m[i], magnitude(t[k].v[i]));
  if (job.block_rows > 1) m[0] = m[1] = half_largest(larger(m[0], m[1]));
  for (int i = 0; i < 2; i++)
    by[i] = job.rule == FOUR_SIX ? nv_four_six(t, i, m[i], job) : nv_scale_of(m[i], job);
}
template <Kind KIND> INLINE void store_column(
    const Job& job, int64_t row, int64_t column, U pairs, const Scale by[1][2], int i, int j) {
  store_codes(job, row, column, pairs, by[0][i].inverse[j], by[0][i].scale[j]);
}
template <Kind KIND> INLINE void store_column(
    const Job& job, int64_t row, int64_t column, U pairs, const NvScale by[2][2], int i, int j) {
  const uint32_t first = by[0][i].byte[j], second = by[1][i].byte[j];
  nv_store_codes(job, row, column, pairs, selected((U)(LANE >= 8u), all(second), all(first)));
  uint8_t* scales = job.scales + (row * job.columns + column) / NV_BLOCK;
  scales[0] = (uint8_t)first, scales[1] = (uint8_t)second;
}

template <Kind KIND> INLINE void round_columns(
    Pair* t, const Job& job, const Constants& c, int64_t column, int64_t row, int64_t count,
    const typename Scales<KIND>::One (*given)[2]) {  // a block of every lane; given: its scales, or null
  constexpr int WIDTH = is_nvfp4(KIND) ? NV_BLOCK : BLOCK;  // two blocks of NVFP4
  typename Scales<KIND>::One of_blocks[BLOCK / WIDTH][2];
  for (int part = 0; part < BLOCK / WIDTH; part++)
    if (given) std::memcpy(of_blocks[part], given[part], sizeof of_blocks[part]);
    else column_scales<KIND>(t + WIDTH * part, job, c, of_blocks[part]);
  const uint64_t per_row = (uint64_t)job.columns / 4;
  const D first = (COUNT * 4 + (uint64_t)row) * per_row + (uint64_t)column / 4;  // of every fourth row
  U done[2][LANES];  // BF16 pairs of two columns, the even and the odd rows
  for (int k = 0; k < BLOCK; k += 4) {
    D counter[4];
    for (int i = 0; i < 4; i++) counter[i] = first + (i * per_row + k / 4);
    const auto& by = of_blocks[k / WIDTH];
    Words words[4] = {};
    if (is_random(KIND)) philox<4>(counter, job, words);
    for (int n = 0; n < 4; n += 2)
      for (int i = 0; i < 2; i++) {
        F a = element<KIND>(t[k + n].v[i], by[i], joined(words[i].w[n], words[i + 2].w[n]), c);
        F b = element<KIND>(t[k + n + 1].v[i], by[i], joined(words[i].w[n + 1], words[i + 2].w[n + 1]), c);
        done[i][(k + n) / 2] = packed<KIND>({{a, b}}, c.rounds);
      }
  }
  for (int i = 0; i < 2; i++) {
    transpose(done[i]);
    for (int j = 0; job.codes && j < LANES && 2 * j + i < count; j++)
      store_column<KIND>(job, row + i + 2 * j, column, done[i][j], of_blocks, i, j);
    if (job.codes) continue;
    uint16_t* out = job.out + (row + i) * job.out_stride + column;
    for (int j = 0; j < LANES && 2 * j + i < count; j++) *(Unaligned*)(out + 2 * j * job.out_stride) = done[i][j];
  }
}

// The scales of blocks that depend on others of their group; false where there are none
INLINE bool find_column_scales(const Pair*, const Job&, int64_t, int64_t, int64_t, int, Scale[8][2]) { return false; }
INLINE bool find_column_scales(
    const Pair* t, const Job& job, int64_t column, int64_t row, int64_t count, int width, NvScale by[8][2]) {
  if (job.rule >= EDEN) eden_column_scales(t, job, column, row, count, width, by);
  return job.rule >= EDEN;
}

template <class T, Kind KIND> static void along_columns(const Job& job, int64_t column, int64_t row) {
  const int width = job.hadamard > BLOCK ? job.hadamard : BLOCK;
  const int64_t end = row + STRIP < job.rows ? row + STRIP : job.rows;
  const Constants c = constants_of<KIND>(job);
  Pair t[128];
  for (; row < end; row += BLOCK) {
    const T* x = (const T*)job.x + column * job.x_stride + row;
    for (int k = 0; k < width; k++) {
      t[k] = load(x + k * job.x_stride, end - row);
      // prefetch the next tile, to read and to write: the hardware cannot prefetch that many streams
      const char* next = (const char*)(x + k * job.x_stride + BLOCK);
      if (job.out)
        __builtin_prefetch(job.out + (row + BLOCK + k % BLOCK) * job.out_stride + column + k / BLOCK * BLOCK, 1);
      for (size_t line = 0; line < BLOCK * sizeof(T); line += 64) __builtin_prefetch(next + line);
    }
    if (job.hadamard) transform(t, job, width);
    typename Scales<KIND>::One given[8][2];
    const bool is_given = find_column_scales(t, job, column, row, end - row, width, given);
    for (int k = 0; k < width; k += BLOCK)
      round_columns<KIND>(t + k, job, c, column + k, row, end - row, is_given ? given + k / NV_BLOCK : nullptr);
  }
}

static void values_of_codes(const Job& job, int64_t row, int64_t) {
  for (int64_t at = 0; at < job.columns; at += BLOCK)
    *(Unaligned*)(job.out + row * job.out_stride + at) = job.nvfp4 ? nv_pairs_of(job, row, at) : pairs_of(job, row, at);
}

// NVFP4's first pass: the largest magnitude goes to *job.scale; if not ALL_FINITE, that of the blocks that are finite
static void raise_largest(const Job& job, U largest) {
  uint32_t found = 0;
  for (int i = 0; i < LANES; i++) found = found < largest[i] ? largest[i] : found;
  raise_to(job, found);
}

template <class T, int SIZE, bool ALL_FINITE> INLINE U nv_largest_of_rows(const Job& job, int64_t row) {
  constexpr int LEAST = SIZE > BLOCK ? SIZE / BLOCK : 1;
  U flip[LEAST][2] = {};
  flips_of<SIZE>(job, flip);
  U largest = {};
  for (int64_t at = 0; at < job.columns; at += LEAST * BLOCK) {
    U m[LEAST] = {};
    for (int64_t r = row; r < row + job.block_rows; r++) {
      Pair t[LEAST];
      load_row<T, SIZE, LEAST>((const T*)job.x + r * job.x_stride + at, t, flip, job.factor);
      for (int b = 0; b < LEAST; b++) m[b] = larger(m[b], largest_of(t[b]));
    }
    for (int b = 0; b < LEAST; b++) largest = larger(largest, ALL_FINITE ? m[b] : finite_of_halves(m[b]));
  }
  return largest;
}

INLINE U nv_largest_of(const float* x, int64_t count) {  // in any order; count is a multiple of 32
  U largest[4] = {};
  int64_t at = 0;
  for (; at + 4 * LANES <= count; at += 4 * LANES)
    for (int i = 0; i < 4; i++) largest[i] = larger(largest[i], *(const Unaligned*)(x + at + LANES * i) & MAGNITUDE);
  for (; at < count; at += LANES) largest[0] = larger(largest[0], *(const Unaligned*)(x + at) & MAGNITUDE);
  return larger(larger(largest[0], largest[1]), larger(largest[2], largest[3]));
}
INLINE U nv_largest_of(const uint16_t* x, int64_t count) {
  U largest[2] = {};
  for (int64_t at = 0; at < count; at += BLOCK) {
    const U both = *(const Unaligned*)(x + at);
    largest[0] = larger(largest[0], both << 16 & MAGNITUDE), largest[1] = larger(largest[1], both & UPPER & MAGNITUDE);
  }
  return larger(largest[0], largest[1]);
}

template <class T, int SIZE, bool ALL_FINITE> static void nv_largest_along_rows(const Job& job, int64_t row, int64_t) {
  U largest = {};
  if (SIZE || !ALL_FINITE) largest = nv_largest_of_rows<T, SIZE, ALL_FINITE>(job, row);
  for (int64_t r = row; !SIZE && ALL_FINITE && r < row + job.block_rows; r++)
    largest = larger(largest, nv_largest_of((const T*)job.x + r * job.x_stride, job.columns));
  raise_largest(job, largest);
}

template <class T, bool ALL_FINITE> static void nv_largest_along_columns(const Job& job, int64_t column, int64_t row) {
  const int width = job.hadamard > BLOCK ? job.hadamard : BLOCK;
  const int64_t end = row + STRIP < job.rows ? row + STRIP : job.rows;
  Pair t[128];
  U largest = {};
  for (; row < end; row += BLOCK) {
    for (int k = 0; k < width; k++) t[k] = load((const T*)job.x + (column + k) * job.x_stride + row, end - row);
    if (job.hadamard) transform(t, job, width);
    for (int k = 0; k < width; k += NV_BLOCK) {
      U m[2] = {};
      for (int n = 0; n < NV_BLOCK; n++)
        for (int i = 0; i < 2; i++) m[i] = larger(m[i], magnitude(t[k + n].v[i]));
      if (job.block_rows > 1) m[0] = m[1] = half_largest(larger(m[0], m[1]));
      for (U one : m) largest = larger(largest, ALL_FINITE ? one : (U)(one < EXPONENT) & one);
    }
  }
  raise_largest(job, largest);
}

// The choice of the function for a job, and its division among threads
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

template <class T, bool ALL_FINITE> static Task nv_largest_task(const Job& job) {
  if (job.is_transposed) return nv_largest_along_columns<T, ALL_FINITE>;
  switch (job.hadamard) {
    case 0: return nv_largest_along_rows<T, 0, ALL_FINITE>;
    case 16: return nv_largest_along_rows<T, 16, ALL_FINITE>;
    case 32: return nv_largest_along_rows<T, 32, ALL_FINITE>;
    case 64: return nv_largest_along_rows<T, 64, ALL_FINITE>;
    case 128: return nv_largest_along_rows<T, 128, ALL_FINITE>;
  }
  return nullptr;
}

template <class T> static Task task_of(const Job& job) {
  if (job.nvfp4) return job.is_stochastic && job.rule < EDEN ? task_of<T, NVFP4_RANDOM>(job) : task_of<T, NVFP4>(job);
  if (job.is_stochastic) return task_of<T, RANDOM>(job);
  const bool is_plain = job.mantissa_bits == 1 && job.prescale == 1.0f && job.rule != LEAST_ERROR;
  return is_plain ? task_of<T, PLAIN>(job) : task_of<T, NEAREST>(job);
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

static void run(Shared& shared) {  // on so many threads that each has at least 32,768 elements
  const Job& job = *shared.job;
  int64_t per_unit = job.rows * job.columns / (shared.units ? shared.units : 1) + 1;
  shared.grain = (32768 + per_unit - 1) / per_unit;
  int64_t useful = (shared.units + shared.grain - 1) / shared.grain;
  int64_t threads = job.threads < useful ? job.threads : useful;
  if (job.parallel && threads > 1)
    job.parallel(work, &shared, (unsigned)threads, 0);
  else
    work(&shared);
}

static void run_fp8(const Job& job, Task task) {
  Shared shared{&job, task, 0, 1, (job.columns + FP8_UNIT - 1) / FP8_UNIT, 1, {0}};
  run(shared);
}

template <class T> static void quantize_fp8(const Job& job) {
  *job.scale = 0.0f;
  run_fp8(job, largest_magnitude<T>);
  scale_of_largest(job);
  run_fp8(job, cast_to_fp8<T>);
}

static void run_units(const Job& job, Task task) {
  Shared shared{&job, task, 0, 0, 0, 1, {0}};
  shared.width = job.hadamard > BLOCK ? job.hadamard : BLOCK;
  shared.strips = (job.rows + STRIP - 1) / STRIP;
  shared.units = job.is_transposed ? shared.strips * (job.columns / shared.width) : job.rows / job.block_rows;
  run(shared);
}

// After the tensor scale, which it finds. Null under MS-EDEN where a number is not finite or scales are extreme.
template <class T> static Task nvfp4_task(Job& job, Task task) {
  bool all_finite = false;
  *job.scale = 0.0f;
  if (job.nvfp4 != NO_TENSOR_SCALE) {
    run_units(job, nv_largest_task<T, true>(job));
    all_finite = *job.scale <= 3.4028234663852886e38f;
    if (!all_finite) {  // look again, at each block
      *job.scale = 0.0f;
      run_units(job, nv_largest_task<T, false>(job));
    }
  }
  nv_tensor_scales(job);
  const bool is_moderate = all_finite && job.decode > 1e-30f && job.decode < 1e34f;  // no value is subnormal in BF16
  if (job.rule >= EDEN && !is_moderate) return nullptr;
  return nv_is_plain(job, is_moderate) ? nv_plain_row<T> : task;
}

extern "C" int quantize_dequantize(const Job* given) {  // 0; 1: no such transform; 2: the specification must do it
  Job job = *given;
  if (job.is_fp8) {
    if (!job.x) run_fp8(job, values_of_fp8);
    else if (job.is_bf16) quantize_fp8<uint16_t>(job);
    else quantize_fp8<float>(job);
    return 0;
  }
  Task task = !job.x ? values_of_codes : job.is_bf16 ? task_of<uint16_t>(job) : task_of<float>(job);
  if (!task) return 1;
  if (job.nvfp4 && job.x) task = job.is_bf16 ? nvfp4_task<uint16_t>(job, task) : nvfp4_task<float>(job, task);
  if (!task) return 2;
  run_units(job, task);
  return 0;
}
