// The inner loop of every product: a few rows of A, in the L1 cache, times a panel of B.
//
// A panel stores `GROUP` consecutive numbers of a column next to each other, four bytes in all: one
// instruction multiplies four bytes of A, broadcast, by those of sixteen columns.
#ifndef PRECAST_TILE_H
#define PRECAST_TILE_H

#include "vector.h"

namespace precast {

// fp32 times fp32.
struct Fp32 {
  using A = float;
  using B = float;
  using Sum = __m512;
  using Result = float;
  static constexpr int GROUP = 1;
  static Sum sum_at(const Result* at) { return _mm512_loadu_ps(at); }
  static Sum zero() { return _mm512_setzero_ps(); }
  static void add(Sum& sum, __m512i a, __m512i b) {
    sum = _mm512_fmadd_ps(_mm512_castsi512_ps(a), _mm512_castsi512_ps(b), sum);
  }
};

#ifdef __AVX512BF16__
// bf16 times bf16, summed in fp32.
struct Bf16 {
  using A = BFloat16;
  using B = BFloat16;
  using Sum = __m512;
  using Result = float;
  static constexpr int GROUP = 2;
  static Sum sum_at(const Result* at) { return _mm512_loadu_ps(at); }
  static Sum zero() { return _mm512_setzero_ps(); }
  static void add(Sum& sum, __m512i a, __m512i b) { sum = _mm512_dpbf16_ps(sum, (__m512bh)a, (__m512bh)b); }
};
#endif

#ifdef __AVX512VNNI__
// Unsigned times signed bytes, summed in int32.
struct Int8 {
  using A = uint8_t;
  using B = int8_t;
  using Sum = __m512i;
  using Result = int32_t;
  static constexpr int GROUP = 4;
  static Sum sum_at(const Result* at) { return _mm512_loadu_si512(at); }
  static Sum zero() { return _mm512_setzero_si512(); }
  static void add(Sum& sum, __m512i a, __m512i b) {
    // Inline assembly: around the intrinsic, gcc 12 copies every sum twice, which halves the speed.
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  }
};
#endif

// Columns of a panel: four registers.
constexpr int PANEL = 4 * LANES;
// Rows of the largest tile. 12 x 2 sums, 2 registers of B and one of A are 27 of the 32 registers, and of
// all shapes that fit, this one reads the least: B comes from the L2 cache, A from L1.
constexpr int TILE_ROWS = 12;
// Rows of the largest tile for a whole panel: 6 x 4 sums, 4 registers of B and one of A.
constexpr int WHOLE_ROWS = 6;

// Registers of columns in a tile of `rows` rows.
constexpr int wide_of(int rows) { return rows > WHOLE_ROWS ? 2 : 4; }

// `sums` becomes A[ROWS][groups * GROUP] times B[groups][columns][GROUP]; `b_stride` is the numbers from one
// group to the next. B is prefetched `AHEAD` bytes in advance; 0 if it is in cache.
template <class Type, int ROWS, int WIDE, int64_t AHEAD = 0>
inline __attribute__((always_inline)) void multiply(
    const typename Type::A* a, ptrdiff_t a_stride, const typename Type::B* b, ptrdiff_t b_stride, int64_t groups,
    typename Type::Sum (&sums)[ROWS][WIDE]) {
#pragma GCC unroll 12
  for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 4
    for (int part = 0; part < WIDE; ++part) sums[row][part] = Type::zero();
  for (int64_t group = 0; group < groups; ++group) {
    __m512i columns[WIDE];
#pragma GCC unroll 4
    for (int part = 0; part < WIDE; ++part) {
      const auto* at = reinterpret_cast<const char*>(b + group * b_stride + part * LANES * Type::GROUP);
      columns[part] = _mm512_loadu_si512(at);
      if constexpr (AHEAD > 0) _mm_prefetch(at + AHEAD, _MM_HINT_T0);
    }
#pragma GCC unroll 12
    for (int row = 0; row < ROWS; ++row) {
      int32_t four_bytes;
      __builtin_memcpy(&four_bytes, a + row * a_stride + group * Type::GROUP, 4);
      const __m512i repeated = _mm512_set1_epi32(four_bytes);
#pragma GCC unroll 4
      for (int part = 0; part < WIDE; ++part) Type::add(sums[row][part], repeated, columns[part]);
    }
  }
}

// For functions that use all registers: if gcc 12 inlines them into loops over tiles, it keeps their sums in memory.
#define PRECAST_ALONE __attribute__((noinline))

// Calls `work.template run<ROWS>(first row)` until all rows are done, in tiles of `LARGEST` rows at most.
template <int LARGEST, class Work>
inline void by_rows(int64_t begin, int64_t end, const Work& work) {
  for (; begin + LARGEST <= end; begin += LARGEST) work.template run<LARGEST>(begin);
  for (; begin + WHOLE_ROWS <= end; begin += WHOLE_ROWS) work.template run<WHOLE_ROWS>(begin);
  switch (end - begin) {
    case 5: work.template run<5>(begin); break;
    case 4: work.template run<4>(begin); break;
    case 3: work.template run<3>(begin); break;
    case 2: work.template run<2>(begin); break;
    case 1: work.template run<1>(begin); break;
    default: break;
  }
}

}  // namespace precast

#endif
