// A linear layer with its activation: y = activation(x W^T + bias).
//
// Weights lie in panels of 64 columns, see tile.h: W[panel][group][column of the panel][GROUP], filled up with
// zeros.
#ifndef PRECAST_LINEAR_H
#define PRECAST_LINEAR_H

#include "product.h"

namespace precast {

struct LinearSizes {
  int64_t rows, columns, inner;
  // Numbers from one row of x to the next; rows of y are contiguous.
  int64_t x_stride;
};

template <class T, class Activation, class Output>
struct LinearPanel {
  using Type = T;
  const typename T::A* x;
  int64_t stride, inner;
  const typename T::B* weights;
  // From the panel's first column on, and how many of them there are.
  const float* bias;
  Output* y;
  int64_t wanted, y_stride;

  struct Columns {
    int64_t first;
    __mmask16 live;
    __m512 bias;
  };

  Columns columns_at(int64_t column) const {
    const __mmask16 live = first_lanes(wanted - column);
    return {column, live, bias == nullptr ? _mm512_setzero_ps() : load(bias + column, live)};
  }

  void put(const Columns& columns, int64_t row, __m512 sum) const {
    const __m512 value = Activation::template apply<Output>(_mm512_add_ps(sum, columns.bias));
    store(y + row * y_stride + columns.first, value, columns.live);
  }
};

// Args: `x` [rows][inner], a multiple of GROUP inner numbers; `weight` in panels; `bias` [columns] or null;
// `y` [rows][columns].
template <class Type, class Activation, class Output>
inline void linear(const typename Type::A* x, const typename Type::B* weight, const float* bias, Output* y,
                   LinearSizes sizes) {
#pragma omp parallel
  {
    const Chunks<Type> chunks(sizes.rows, omp_get_num_threads());
    over_chunks(chunks, sizes.columns, [&](int64_t panel, int64_t first, int64_t last) {
      const int64_t column = panel * PANEL;
      const LinearPanel<Type, Activation, Output> work{
          x, sizes.x_stride, sizes.inner, weight + column * sizes.inner, bias == nullptr ? nullptr : bias + column,
          y + column, std::min<int64_t>(PANEL, sizes.columns - column), sizes.columns};
      multiply_panel(work, first, last);
    });
  }
}

}  // namespace precast

#endif
