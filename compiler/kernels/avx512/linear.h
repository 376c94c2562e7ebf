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
  int64_t chunks = (rows + CHUNK_ROWS - 1) / CHUNK_ROWS;
  const int64_t even = (rows + chunks - 1) / chunks;
  const int64_t chunk = (even + TILE_ROWS - 1) / TILE_ROWS * TILE_ROWS;
  chunks = (rows + chunk - 1) / chunk;
  const Share share = share_of(chunks * panels, omp_get_thread_num(), omp_get_num_threads());
  for (int64_t piece = share.begin; piece < share.end; ++piece) {
    const int64_t first = piece / panels * chunk;
    work(piece % panels, first, std::min(rows, first + chunk));
  }
}

template <class Activation, class Output>
inline void finish(__m512 value, const float* bias, int64_t column, __mmask16 live, Output* y) {
  if (bias != nullptr) value = _mm512_add_ps(value, load(bias + column, live));
  store(y + column, Activation::apply(value), live);
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
    typename Type::Sum sums[ROWS][4];
    const int64_t groups = (sizes.inner + Type::GROUP - 1) / Type::GROUP;
    multiply<Type, ROWS, 4>(x + row * sizes.x_stride, sizes.x_stride, panel, PANEL * Type::GROUP, groups, sums);
#pragma GCC unroll 4
    for (int part = 0; part < 4; ++part) {
      const int64_t column = first_column + part * LANES;
      const __mmask16 live = first_lanes(sizes.columns - column);
#pragma GCC unroll 8
      for (int at = 0; at < ROWS; ++at)
        finish<Activation>(sums[at][part], bias, column, live, y + (row + at) * sizes.columns);
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
