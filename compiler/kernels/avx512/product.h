// Multiplies rows of A by one panel of B and writes the results.
//
// On processors with matrix tiles (AMX), sixteen and more rows are multiplied by oneDNN's brgemm kernel,
// which uses them and which torch exports. Otherwise the register tiles of tile.h are used: sums are finished
// while they are in registers, without any setup.
#ifndef PRECAST_PRODUCT_H
#define PRECAST_PRODUCT_H

#include <ATen/native/CPUBlas.h>

#include "threads.h"
#include "tile.h"

namespace precast {

// Whether there are matrix tiles for a type of tile.h. Tests define PRECAST_BLOCKS to run them on any processor.
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

// The sizes of a block in rows. Each size needs a brgemm kernel of its own, which takes a millisecond to generate,
// so there are only two.
constexpr int64_t BLOCK_ROWS = 48, LEAST_ROWS = 16;
// Chunks of rows are multiples of this, except for the last one.
template <class Type>
constexpr int64_t UNIT = BLOCKS<Type> ? LEAST_ROWS : TILE_ROWS;

// Prefetch distance in bytes. Without it a thread waits for memory at the start of each panel, because the end of the
// previous loop is mispredicted. Panels are adjacent, so the prefetch runs on into the next one.
constexpr int64_t AHEAD = 12288;

// `Panel` must provide: `Type`, of tile.h; `x`, its `stride`, and `inner`, in whole groups; `weights`, the panel;
// `wanted`, the columns in use; `columns_at(column)`, the values that all rows share; and `put`, which receives
// sixteen sums of a row.
template <class Panel, int ROWS, int WIDE>
PRECAST_ALONE void multiply_tile(const Panel& panel, int64_t row, int64_t column) {
  using Type = typename Panel::Type;
  typename Type::Sum sums[ROWS][WIDE];
  multiply<Type, ROWS, WIDE, AHEAD>(panel.x + row * panel.stride, panel.stride,
                                    panel.weights + column * Type::GROUP, PANEL * Type::GROUP,
                                    panel.inner / Type::GROUP, sums);
#pragma GCC unroll 4
  for (int part = 0; part < WIDE; ++part) {
    const auto columns = panel.columns_at(column + part * LANES);
#pragma GCC unroll 12
    for (int at = 0; at < ROWS; ++at) panel.put(columns, row + at, sums[at][part]);
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

  template <int ROWS>
  void run(int64_t row) const {
    constexpr int WIDE = wide_of(ROWS);
    for (int64_t column = 0; column < panel.wanted; column += WIDE * LANES)
      multiply_tile<Panel, ROWS, WIDE>(panel, row, column);
  }
};

template <class Panel>
inline void multiply_panel(const Panel& panel, int64_t first, int64_t last) {
  if constexpr (BLOCKS<typename Panel::Type>) {
    for (; first + BLOCK_ROWS <= last; first += BLOCK_ROWS) multiply_block(panel, first, BLOCK_ROWS);
    for (; first + LEAST_ROWS <= last; first += LEAST_ROWS) multiply_block(panel, first, LEAST_ROWS);
  }
  // Large tiles read one half of a panel after the other. That is best if it is in cache: int8 weights read by
  // many rows. From memory, it is fastest to read the panel from end to end.
  constexpr bool SMALL = sizeof(typename Panel::Type::B) == 1;
  if (SMALL && last - first >= 2 * TILE_ROWS) {
    by_rows<TILE_ROWS>(first, last, PanelTiles<Panel>{panel});
  } else {
    by_rows<WHOLE_ROWS>(first, last, PanelTiles<Panel>{panel});
  }
}

// Rows that are multiplied by all panels while they stay in the L2 cache: 96 rows of 1,536 numbers in bf16 are
// 288 KiB.
constexpr int64_t CHUNK_ROWS = 96;

// Rows in even chunks: a thread with a smaller last one would wait for the others. With many rows every thread has
// equally many chunks and all panels of each, so it can prepare their rows without waiting for other threads.
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

  // The rows that a thread prepares: its own, or if chunks are shared, its share of all rows (followed by a barrier).
  Share prepared_by(int64_t thread) const {
    return shared() ? share_of(rows, thread, threads) : rows_of(share_of(count, thread, threads));
  }
};

// Calls `multiply(panel, first row, last row)` for this thread's share of all panels and chunks.
template <class Type, class Work>
inline void over_chunks(const Chunks<Type>& chunks, int64_t columns, const Work& multiply) {
  const int64_t panels = (columns + PANEL - 1) / PANEL;
  const Share share = share_of(chunks.count * panels, omp_get_thread_num(), chunks.threads);
  for (int64_t piece = share.begin; piece < share.end; ++piece) {
    const Share some = chunks.rows_of({piece / panels, piece / panels + 1});
    multiply(piece % panels, some.begin, some.end);
  }
  // Matrix tiles are thread state that would slow down subsequent code.
  if constexpr (BLOCKS<Type>) at::native::cpublas::brgemm_release();
}

}  // namespace precast

#endif
