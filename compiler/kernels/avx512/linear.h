// A linear layer with its activation: y = activation(x W^T + bias).
//
// Weights lie in panels of 64 columns, see tile.h: W[panel][group][column of the panel][GROUP], filled up with
// zeros. Many rows are cut into chunks that stay in the second level of cache while panels pass by.
#ifndef PRECAST_LINEAR_H
#define PRECAST_LINEAR_H

#include "threads.h"
#include "tile.h"

namespace precast {

// Rows of a chunk, about: 96 rows of 1,536 numbers in bf16 are 288 KiB.
constexpr int64_t CHUNK_ROWS = 96;

struct LinearSizes {
  int64_t rows, columns, inner;
  // Numbers from one row of x to the next; rows of y are contiguous.
  int64_t x_stride;
};

// Calls `work(panel, first row, last row)` for all panels and chunks, this thread's share of them.
template <class Work>
inline void over_chunks(int64_t rows, int64_t columns, const Work& work) {
  const int64_t panels = (columns + PANEL - 1) / PANEL;
  // Chunks of whole tiles, as even as can be: a thread with a smaller last one would wait for the others.
  const int64_t tiles = (rows + TILE_ROWS - 1) / TILE_ROWS, chunks = (rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
  const Share share = share_of(chunks * panels, omp_get_thread_num(), omp_get_num_threads());
  for (int64_t piece = share.begin; piece < share.end; ++piece) {
    const Share some = share_of(tiles, piece / panels, chunks);
    work(piece % panels, some.begin * TILE_ROWS, std::min(rows, some.end * TILE_ROWS));
  }
}

template <class Activation, class Output>
inline void finish(__m512 value, __mmask16 live, Output* y) {
  store(y, Activation::template apply<Output>(value), live);
}

template <class Type, class Activation, class Output>
struct LinearTile {
  const typename Type::A* x;
  const typename Type::B* panel;
  const float* bias;
  Output* y;
  LinearSizes sizes;
  int64_t first_column;

  template <int ROWS>
  void run(int64_t row) const {
    constexpr int WIDE = wide_of(ROWS);
    for (int64_t from = 0; from < PANEL; from += WIDE * LANES)
      if (first_column + from < sizes.columns) tile<ROWS, WIDE>(row, from);
  }

  // The columns of the panel from `from` on.
  template <int ROWS, int WIDE>
  PRECAST_ALONE void tile(int64_t row, int64_t from) const {
    typename Type::Sum sums[ROWS][WIDE];
    const int64_t groups = (sizes.inner + Type::GROUP - 1) / Type::GROUP;
    multiply<Type, ROWS, WIDE>(x + row * sizes.x_stride, sizes.x_stride, panel + from * Type::GROUP,
                               PANEL * Type::GROUP, groups, sums);
#pragma GCC unroll 4
    for (int part = 0; part < WIDE; ++part) {
      const int64_t column = first_column + from + part * LANES;
      const __mmask16 live = first_lanes(sizes.columns - column);
      const __m512 shift = bias == nullptr ? _mm512_setzero_ps() : load(bias + column, live);
#pragma GCC unroll 12
      for (int at = 0; at < ROWS; ++at)
        finish<Activation>(_mm512_add_ps(sums[at][part], shift), live, y + (row + at) * sizes.columns + column);
    }
  }
};

// Args: `x` [rows][inner], a multiple of GROUP inner numbers; `weight` in panels; `bias` [columns] or null;
// `y` [rows][columns].
template <class Type, class Activation, class Output>
inline void linear(const typename Type::A* x, const typename Type::B* weight, const float* bias, Output* y,
                   LinearSizes sizes) {
  const int64_t groups = (sizes.inner + Type::GROUP - 1) / Type::GROUP;
#pragma omp parallel
  over_chunks(sizes.rows, sizes.columns, [&](int64_t panel, int64_t first, int64_t last) {
    const auto* at = weight + panel * groups * PANEL * Type::GROUP;
    by_rows(first, last, LinearTile<Type, Activation, Output>{x, at, bias, y, sizes, panel * PANEL});
  });
}

}  // namespace precast

#endif
