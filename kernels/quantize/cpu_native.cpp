// Quantise-dequantise to BF16 in one pass, equal to kernels/quantize/reference.py in every bit. Built by cpu_build.py.
//
// Vectors of 16 lanes in GCC's and Clang's vector notation, so one source serves AVX-512, AVX2 and NEON. Two
// orientations: blocks along a contiguous row (lanes are elements of one block), and blocks along the strided dimension
// of a transposed matrix (each lane is a block of its own). Never compile with -ffast-math or contraction: the order of
// additions, subnormals and the sign of zero are specified.

#include <atomic>
#include <cstdint>
#include <cstring>

#define INLINE static inline __attribute__((always_inline))

typedef float F __attribute__((vector_size(64)));
typedef uint32_t U __attribute__((vector_size(64)));
typedef int32_t I __attribute__((vector_size(64)));
typedef uint16_t Half __attribute__((vector_size(32)));

extern "C" struct Job {  // the same fields as kernels.quantize.cpu_build.Job
  const void* x;
  uint16_t* out;
  const float* signs;      // `hadamard` of +1 and -1, or null
  void (*parallel)(void (*)(void*), void*, unsigned, unsigned);  // GOMP_parallel of torch's OpenMP, or null
  int64_t rows, columns;   // M, K of the matrix whose rows hold the blocks
  int64_t x_stride, out_stride;  // elements between rows, or between columns when transposed
  uint64_t seed, offset;
  int32_t is_bf16, is_transposed, hadamard, block_rows, is_stochastic, threads;
  uint32_t carry, max_exponent, smallest, mantissa_bits;  // of the scale rule and the element
  float largest, prescale, factor;  // factor: 1 / sqrt(hadamard)
};

constexpr int LANES = 16, BLOCK = 32;
constexpr int TILE = 2;  // vectors of rows side by side in a transposed matrix
constexpr int64_t CHUNK = 2048;  // rows of a transposed matrix that one thread takes at a time
constexpr uint32_t EXPONENT = 0x7F800000u, MAGNITUDE = 0x7FFFFFFFu, SIGN = 0x80000000u, NAN_BITS = 0x7FC00000u;

INLINE F zero() { return F{}; }
INLINE U all(uint32_t v) { return U{} + v; }
INLINE F all(float v) { return F{} + v; }
INLINE U bits(F v) { return (U)v; }
INLINE F value(U v) { return (F)v; }
INLINE U larger(U a, U b) { return a > b ? a : b; }

template <int... X, class V> INLINE V pick(V a, V b) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, X...);
#else
  return __builtin_shuffle(a, b, (I){X...});
#endif
}

template <int D, class V> INLINE V swapped(V v) {  // lane i takes lane i ^ D
  return pick<0 ^ D, 1 ^ D, 2 ^ D, 3 ^ D, 4 ^ D, 5 ^ D, 6 ^ D, 7 ^ D, 8 ^ D, 9 ^ D, 10 ^ D, 11 ^ D, 12 ^ D, 13 ^ D,
              14 ^ D, 15 ^ D>(v, v);
}

INLINE F load(const float* p) {
  F v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
INLINE F load(const uint16_t* p) {  // BF16
  Half h;
  std::memcpy(&h, p, sizeof h);
  return value(__builtin_convertvector(h, U) << 16);
}
template <class T> INLINE F load(const T* p, int64_t count) {
  if (count >= LANES) return load(p);
  T padded[LANES] = {};
  if (count > 0) std::memcpy(padded, p, count * sizeof(T));
  return load(padded);
}
INLINE void store(uint16_t* p, F v, int64_t count) {  // rounds to nearest even: small FP8 elements are inexact in BF16
  U b = bits(v);
  Half h = __builtin_convertvector((b + 0x7FFFu + ((b >> 16) & 1u)) >> 16, Half);
  std::memcpy(p, &h, count >= LANES ? sizeof h : count * sizeof *p);
}

// Philox4x32-10: lane i has counter (low + i carried into high, offset); kernels/philox.py
struct Words { U w[4]; };

INLINE void multiply(U x, uint32_t by, U& high, U& low) {
  for (int i = 0; i < LANES; i++) high[i] = (uint32_t)(((uint64_t)x[i] * by) >> 32);
  low = x * by;
}

INLINE Words philox(U low, U high, const Job& job) {
  U s0 = low, s1 = high, s2 = all((uint32_t)job.offset), s3 = all((uint32_t)(job.offset >> 32));
  uint32_t k0 = (uint32_t)job.seed, k1 = (uint32_t)(job.seed >> 32);
  for (int round = 0; round < 10; round++, k0 += 0x9E3779B9u, k1 += 0xBB67AE85u) {
    U high0, low0, high1, low1;
    multiply(s0, 0xD2511F53u, high0, low0);
    multiply(s2, 0xCD9E8D57u, high1, low1);
    s0 = high1 ^ s1 ^ k0, s1 = low1, s2 = high0 ^ s3 ^ k1, s3 = low0;
  }
  return {{s0, s1, s2, s3}};
}

static const U COUNT = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

INLINE void row_words(int64_t element, const Job& job, U out[4]) {  // of 64 consecutive elements, from a multiple of 4
  uint64_t counter = (uint64_t)element / 4;
  U low = COUNT + (uint32_t)counter;
  U high = all((uint32_t)(counter >> 32)) - (U)(low < (uint32_t)counter);  // a true lane is -1
  Words r = philox(low, high, job);
  for (int half = 0; half < 2; half++) {
    U a, b;
    if (half == 0) {
      a = pick<0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23>(r.w[0], r.w[1]);
      b = pick<0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23>(r.w[2], r.w[3]);
    } else {
      a = pick<8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31>(r.w[0], r.w[1]);
      b = pick<8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31>(r.w[2], r.w[3]);
    }
    out[2 * half] = pick<0, 1, 16, 17, 2, 3, 18, 19, 4, 5, 20, 21, 6, 7, 22, 23>(a, b);
    out[2 * half + 1] = pick<8, 9, 24, 25, 10, 11, 26, 27, 12, 13, 28, 29, 14, 15, 30, 31>(a, b);
  }
}

// Scale and elements
struct Scale { F inverse, scale; };

INLINE Scale scale_of(U largest, const Job& job) {  // of magnitude bits, one block a lane
  U top = (largest + job.carry) >> 23;
  U s = top > job.max_exponent ? top - job.max_exponent : all(0u);
  U bad = (U)(largest >= EXPONENT);
  U scale = s == 0u ? all(0x00400000u) : s << 23;  // 2^-127 is subnormal
  return {value((254u - s) << 23), value(bad ? all(NAN_BITS) : scale)};
}

template <bool RANDOM> INLINE F element(F x, const Scale& by, U random, const Job& job) {
  F m = value(bits(x) & MAGNITUDE) * by.inverse * job.prescale;
  m = m < job.largest ? m : all(job.largest);  // NaN becomes finite; the scale makes its block NaN again
  U binade = larger(bits(m) & EXPONENT, all(job.smallest));
  F r;
  if (RANDOM) {
    F per_step = value((254u << 23) - binade + (job.mantissa_bits << 23));
    F step = value(binade - (job.mantissa_bits << 23));
    F exact = m * per_step;
    F whole = __builtin_convertvector(__builtin_convertvector(exact, I), F);
    F chance = __builtin_convertvector((I)(random >> 8), F) * 0x1p-24f;
    r = ((exact - whole) > chance ? whole + 1.0f : whole) * step;
  } else {
    F base = value(binade + ((23u - job.mantissa_bits) << 23));
    r = (m + base) - base;
  }
  return value(bits(r * by.scale) | (bits(x) & SIGN));
}

// Blocks along a contiguous row
template <int D> INLINE F stage(F v) {
  U negative = (U)((COUNT & (uint32_t)D) != 0u) & SIGN;
  return swapped<D>(v) + value(bits(v) ^ negative);
}

template <class T, int SIZE, int V> INLINE void load_row(const T* x, F t[V], const Job& job) {
  for (int i = 0; i < V; i++) t[i] = load(x + LANES * i);
  if (!SIZE) return;
  if (job.signs)
    for (int i = 0; i < V; i++) t[i] *= load(job.signs + LANES * i % SIZE);
  for (int i = 0; i < V; i++) t[i] = stage<8>(stage<4>(stage<2>(stage<1>(t[i]))));
  for (int half = 1; half < SIZE / LANES; half *= 2)
    for (int i = 0; i < V; i++)
      if (!(i & half)) {
        F a = t[i], b = t[i + half];
        t[i] = a + b, t[i + half] = a - b;
      }
  for (int i = 0; i < V; i++) t[i] = t[i] * job.factor + 0.0f;
}

INLINE U largest_row(const F* t) {  // of a block, in every lane
  U m = larger(bits(t[0]) & MAGNITUDE, bits(t[1]) & MAGNITUDE);
  m = larger(m, swapped<8>(m)), m = larger(m, swapped<4>(m));
  m = larger(m, swapped<2>(m));
  return larger(m, swapped<1>(m));
}

template <class T, int SIZE, bool RANDOM> static void along_rows(const Job& job, int64_t row, int64_t) {
  constexpr int W = SIZE > BLOCK ? SIZE : BLOCK, V = W / LANES, SPAN = W > 64 ? W : 64;
  const T* x = (const T*)job.x;
  F t[V];
  for (int64_t k = 0; k < job.columns; k += SPAN) {
    int64_t end = k + SPAN < job.columns ? k + SPAN : job.columns;
    U shared[SPAN / BLOCK] = {};
    if (job.block_rows > 1)
      for (int64_t m = row; m < row + job.block_rows; m++)
        for (int64_t at = k; at < end; at += W) {
          load_row<T, SIZE, V>(x + m * job.x_stride + at, t, job);
          for (int b = 0; b < V / 2; b++) {
            U& found = shared[(at - k) / BLOCK + b];
            found = larger(found, largest_row(t + 2 * b));
          }
        }
    for (int64_t m = row; m < row + job.block_rows; m++) {
      U random[SPAN / LANES] = {};
      if (RANDOM)
        for (int i = 0; i < SPAN / LANES; i += 4) row_words(m * job.columns + k + LANES * i, job, random + i);
      for (int64_t at = k; at < end; at += W) {
        load_row<T, SIZE, V>(x + m * job.x_stride + at, t, job);
        uint16_t* out = job.out + m * job.out_stride + at;
        for (int b = 0; b < V / 2; b++) {
          int64_t block = (at - k) / BLOCK + b;
          Scale by = scale_of(job.block_rows > 1 ? shared[block] : largest_row(t + 2 * b), job);
          for (int i = 2 * b; i < 2 * b + 2; i++)
            store(out + LANES * i, element<RANDOM>(t[i], by, random[(at - k) / LANES + i], job), LANES);
        }
      }
    }
  }
}

// Blocks along the strided dimension of a transposed matrix: row k of memory is column k of the matrix
typedef F Strip[TILE];  // of consecutive matrix rows, one column

INLINE void add_subtract(Strip* t, int size, int from) {  // the transform's stages of half = from, 2 from, .. size / 2
  for (int half = from; half < size; half *= 2)
    for (int k = 0; k < size; k++)
      if (!(k & half))
        for (int i = 0; i < TILE; i++) {
          F a = t[k][i], b = t[k + half][i];
          t[k][i] = a + b, t[k + half][i] = a - b;
        }
}

static void transform(Strip* t, const Job& job, int width) {
  const int size = job.hadamard;
  for (int k = 0; k < width; k++)
    if (job.signs)
      for (int i = 0; i < TILE; i++) t[k][i] *= job.signs[k % size];
  for (int k = 0; k < width; k += LANES)
    for (int i = 0; i < TILE; i++) {
      F a[LANES];
#pragma GCC unroll 16
      for (int n = 0; n < LANES; n++) a[n] = t[k + n][i];
#pragma GCC unroll 4
      for (int half = 1; half < LANES; half *= 2)
#pragma GCC unroll 16
        for (int n = 0; n < LANES; n++)
          if (!(n & half)) {
            F b = a[n], c = a[n + half];
            a[n] = b + c, a[n + half] = b - c;
          }
#pragma GCC unroll 16
      for (int n = 0; n < LANES; n++) t[k + n][i] = a[n];
    }
  for (int k = 0; k < width; k += size) add_subtract(t + k, size, LANES);
  for (int k = 0; k < width; k++)
    for (int i = 0; i < TILE; i++) t[k][i] = t[k][i] * job.factor + 0.0f;
}

INLINE void largest_columns(const Strip* t, U m[TILE], const Job& job) {  // of each lane's block, or of the 32x32 block
  for (int i = 0; i < TILE; i++) m[i] = all(0u);
  for (int k = 0; k < BLOCK; k++)
    for (int i = 0; i < TILE; i++) m[i] = larger(m[i], bits(t[k][i]) & MAGNITUDE);
  if (job.block_rows == 1) return;
  F both[2] = {value(m[0]), value(m[1])};
  m[0] = m[1] = largest_row(both);
}

template <bool RANDOM> INLINE void quantise_columns(
    const Strip* t, const Job& job, int64_t column, int64_t row, int64_t count) {  // one block of every lane
  U m[TILE];
  largest_columns(t, m, job);
  for (int i = 0; i < TILE; i++) {
    Scale by = scale_of(m[i], job);
    U low = all(0u), high = all(0u);
    for (int lane = 0; RANDOM && lane < LANES; lane++) {
      uint64_t counter = (uint64_t)((row + LANES * i + lane) * job.columns + column) / 4;
      low[lane] = (uint32_t)counter, high[lane] = (uint32_t)(counter >> 32);
    }
    for (int k = 0; k < BLOCK; k += 4) {
      Words words = {};
      if (RANDOM) {
        U next = low + (uint32_t)(k / 4);
        words = philox(next, high - (U)(next < low), job);
      }
      for (int n = 0; n < 4; n++) {
        uint16_t* out = job.out + (column + k + n) * job.out_stride + row + LANES * i;
        if (count > LANES * i) store(out, element<RANDOM>(t[k + n][i], by, words.w[n], job), count - LANES * i);
      }
    }
  }
}

template <class T, bool RANDOM> static void along_columns(const Job& job, int64_t column, int64_t row) {
  const int width = job.hadamard > BLOCK ? job.hadamard : BLOCK;
  const int64_t end = row + CHUNK < job.rows ? row + CHUNK : job.rows;
  Strip t[128];
  for (; row < end; row += LANES * TILE) {
    const T* x = (const T*)job.x + column * job.x_stride + row;
    for (int k = 0; k < width; k++)
      for (int i = 0; i < TILE; i++) t[k][i] = load(x + k * job.x_stride + LANES * i, end - row - LANES * i);
    if (job.hadamard) transform(t, job, width);
    for (int k = 0; k < width; k += BLOCK) quantise_columns<RANDOM>(t + k, job, column + k, row, end - row);
  }
}

// Which of these serves a job, and who works on it
typedef void (*Task)(const Job&, int64_t, int64_t);

template <class T, bool RANDOM> static Task task_of(const Job& job) {
  if (job.is_transposed) return along_columns<T, RANDOM>;
  switch (job.hadamard) {
    case 0: return along_rows<T, 0, RANDOM>;
    case 16: return along_rows<T, 16, RANDOM>;
    case 32: return along_rows<T, 32, RANDOM>;
    case 64: return along_rows<T, 64, RANDOM>;
    case 128: return along_rows<T, 128, RANDOM>;
  }
  return nullptr;
}

struct Shared {
  const Job* job;
  Task task;
  int64_t width, strips, units, grain;  // unit: block_rows rows, or a CHUNK of rows of `width` columns
  std::atomic<int64_t> next;
};

static void work(void* given) {  // threads take units until none is left: a slow one does not hold up the rest
  Shared& shared = *(Shared*)given;
  const Job& job = *shared.job;
  for (int64_t from; (from = shared.next.fetch_add(shared.grain)) < shared.units;)
    for (int64_t u = from; u < from + shared.grain && u < shared.units; u++) {
      if (job.is_transposed)
        shared.task(job, u / shared.strips * shared.width, u % shared.strips * CHUNK);
      else
        shared.task(job, u * job.block_rows, 0);
    }
}

extern "C" int quantize_dequantize(const Job* job) {  // 0; 1 for a transform that does not exist
  Task task = job->is_bf16 ? (job->is_stochastic ? task_of<uint16_t, true>(*job) : task_of<uint16_t, false>(*job))
                           : (job->is_stochastic ? task_of<float, true>(*job) : task_of<float, false>(*job));
  if (!task) return 1;
  Shared shared{job, task, 0, 0, 0, 1, {0}};
  shared.width = job->hadamard > BLOCK ? job->hadamard : BLOCK;
  shared.strips = (job->rows + CHUNK - 1) / CHUNK;
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
