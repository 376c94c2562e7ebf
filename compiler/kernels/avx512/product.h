// Rows of A times one panel of B, and what becomes of the sums.
//
// Where a processor has matrix tiles (AMX), sixteen rows and more are multiplied by oneDNN's kernel for blocks,
// which uses them and which torch exports. All others are multiplied by the tiles of tile.h: sums become results
// while they are still in registers, and nothing is looked up or set up.
#ifndef PRECAST_PRODUCT_H
#define PRECAST_PRODUCT_H

#include <ATen/native/CPUBlas.h>

#include "threads.h"
#include "tile.h"

namespace precast {

// Whether there are matrix tiles for a type of tile.h. Tests say so, to run blocks on any processor.
template <class Type>
constexpr bool BLOCKS = false;
#if defined(__AMX_BF16__) || defined(PRECAST_BLOCKS)
template <>
constexpr bool BLOCKS<Bf16> = true;
#endif
#if defined(__AMX_INT8__) || defined(PRECAST_BLOCKS)
template <>
constexpr bool BLOCKS<Int8> = true;
#endif

// Rows of a block, and rows that make one. Every number of rows that is met has a kernel of its own, which takes
// a millisecond to be made, so there are two.
constexpr int64_t BLOCK_ROWS = 48, LEAST_ROWS = 16;
// Rows come in so many, but for the last ones.
template <class Type>
constexpr int64_t UNIT = BLOCKS<Type> ? LEAST_ROWS : TILE_ROWS;

// How far ahead a panel is asked for. Left alone, a thread waits for memory anew with each panel, since the loop over
// the one before ends in a mistaken guess. They lie one behind the other, so that what is ahead is soon the next one.
constexpr int64_t AHEAD = 12288;

// What `Panel` must have: `Type`, of tile.h; `x`, its `stride`, and `inner`, whole groups; `weights`, the panel;
// `wanted`, the columns of it that there are; `columns_at(column)`, what all rows share; and `put`, which takes
// sixteen sums of a row.
template <class Panel, int NUM_SEQS, int WIDE>
PRECAST_ALONE void multiply_tile(const Panel& panel, int64_t row, int64_t column) {
  using Type = typename Panel::Type;
  typename Type::Sum sums[NUM_SEQS][WIDE];
  multiply<Type, NUM_SEQS, WIDE, AHEAD>(panel.x + row * panel.stride, panel.stride,
                                    panel.weights + column * Type::GROUP, PANEL * Type::GROUP,
                                    panel.inner / Type::GROUP, sums);
#pragma GCC unroll 4
  for (int part = 0; part < WIDE; ++part) {
    const auto columns = panel.columns_at(column + part * LANES);
#pragma GCC unroll 12
    for (int at = 0; at < NUM_SEQS; ++at) panel.put(columns, row + at, sums[at][part]);
  }
}

template <class Panel>
PRECAST_ALONE void multiply_block(const Panel& panel, int64_t row, int64_t rows) {
  using Type = typename Panel::Type;
  alignas(64) typename Type::Result sums[BLOCK_ROWS * PANEL];
  at::native::cpublas::brgemm(rows, PANEL, panel.inner, panel.stride, PANEL, PANEL, false,
                              panel.x + row * panel.stride, panel.weights, sums, Type::GROUP > 1);
  for (int64_t column = 0; column < panel.wanted; column += LANES) {
    const auto columns = panel.columns_at(column);
    for (int64_t at = 0; at < rows; ++at) panel.put(columns, row + at, Type::sum_at(sums + at * PANEL + column));
  }
}

template <class Panel>
struct PanelTiles {
  const Panel& panel;

  template <int NUM_SEQS>
  void run(int64_t row) const {
    constexpr int WIDE = wide_of(NUM_SEQS);
    for (int64_t column = 0; column < panel.wanted; column += WIDE * LANES)
      multiply_tile<Panel, NUM_SEQS, WIDE>(panel, row, column);
  }
};

template <class Panel>
inline void multiply_panel(const Panel& panel, int64_t first, int64_t last) {
  if constexpr (BLOCKS<typename Panel::Type>) {
    for (; first + BLOCK_ROWS <= last; first += BLOCK_ROWS) multiply_block(panel, first, BLOCK_ROWS);
    for (; first + LEAST_ROWS <= last; first += LEAST_ROWS) multiply_block(panel, first, LEAST_ROWS);
  }
  // Large tiles read half of a panel after the other. That is best where it lies in cache: if it is of bytes, and
  // many rows read it. From further away it comes fastest from one end to the other.
  constexpr bool SMALL = sizeof(typename Panel::Type::B) == 1;
  if (SMALL && last - first >= 2 * TILE_ROWS) {
    by_rows<TILE_ROWS>(first, last, PanelTiles<Panel>{panel});
  } else {
    by_rows<WHOLE_ROWS>(first, last, PanelTiles<Panel>{panel});
  }
}

// Rows that pass all panels while they stay in the second level of cache: 96 rows of 1,536 numbers in bf16 are
// 288 KiB.
constexpr int64_t CHUNK_ROWS = 96;

// Rows in chunks, as even as can be: a thread with a smaller last one would wait for the others. Where rows are many
// every thread has as many chunks, all panels of each, so that it may prepare their rows and wait for nobody.
template <class Type>
struct Chunks {
  int64_t rows, threads, count;

  Chunks(int64_t rows, int64_t threads)
      : rows(rows), threads(threads), count((rows + CHUNK_ROWS - 1) / CHUNK_ROWS) {
    if (rows >= threads * CHUNK_ROWS / 2) count = up_to(count, threads);
  }

  bool shared() const { return count % threads != 0; }

  Share rows_of(Share chunks) const {
    const int64_t units = (rows + UNIT<Type> - 1) / UNIT<Type>;
    return {units * chunks.begin / count * UNIT<Type>, std::min(rows, units * chunks.end / count * UNIT<Type>)};
  }

  // What a thread prepares: its own rows, or its share of all, for which the others wait where chunks are shared.
  Share prepared_by(int64_t thread) const {
    return shared() ? share_of(rows, thread, threads) : rows_of(share_of(count, thread, threads));
  }
};

// Calls `multiply(panel, first row, last row)` for all panels and chunks, this thread's share of them.
template <class Type, class Work>
inline void over_chunks(const Chunks<Type>& chunks, int64_t columns, const Work& multiply) {
  const int64_t panels = (columns + PANEL - 1) / PANEL;
  const Share share = share_of(chunks.count * panels, omp_get_thread_num(), chunks.threads);
  for (int64_t piece = share.begin; piece < share.end; ++piece) {
    const Share some = chunks.rows_of({piece / panels, piece / panels + 1});
    multiply(piece % panels, some.begin, some.end);
  }
  // Matrix tiles are a state of the thread, which would slow down what it does next.
  if constexpr (BLOCKS<Type>) at::native::cpublas::brgemm_release();
}

}  // namespace precast

#endif
