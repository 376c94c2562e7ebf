// A linear layer with its activation: y = residual + activation(x W^T + bias).
//
// Weights are stored in panels of 64 columns (see tile.h): W[panel][group][column of the panel][GROUP], padded with
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

// Writes the output: y = residual + activation(value).
template <class Activation, class Output>
struct Epilogue {
  // Rows of both are contiguous; `residual` may be null.
  Output* y;
  const Output* residual;
  int64_t stride;

  Epilogue from(int64_t column) const {
    return {y + column, residual == nullptr ? nullptr : residual + column, stride};
  }

  void put(int64_t row, int64_t column, __m512 value, __mmask16 live) const {
    const int64_t at = row * stride + column;
    __m512 result = Activation::template apply<Output>(value);
    if (residual != nullptr) result = _mm512_add_ps(load(residual + at, live), result);
    store(y + at, result, live);
  }
};

template <class T, class Activation, class Output>
struct LinearPanel {
  using Type = T;
  const typename T::A* x;
  int64_t stride, inner;
  const typename T::B* weights;
  // The bias from the panel's first column on; `wanted` is the number of columns in the panel.
  const float* bias;
  Epilogue<Activation, Output> epilogue;
  int64_t wanted;

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
    epilogue.put(row, columns.first, _mm512_add_ps(sum, columns.bias), columns.live);
  }
};

// Args: `x` [rows][inner], a multiple of GROUP inner numbers; `weight` in panels; `bias` [columns] or null;
// `residual` [rows][columns] or null; `y` [rows][columns].
template <class Type, class Activation, class Output>
inline void linear(const typename Type::A* x, const typename Type::B* weight, const float* bias,
                   const Output* residual, Output* y, LinearSizes sizes) {
  const Epilogue<Activation, Output> epilogue{y, residual, sizes.columns};
#pragma omp parallel
  {
    const Chunks<Type> chunks(sizes.rows, omp_get_num_threads());
    over_chunks(chunks, sizes.columns, [&](int64_t panel, int64_t first, int64_t last) {
      const int64_t column = panel * PANEL;
      const LinearPanel<Type, Activation, Output> work{
          x, sizes.x_stride, sizes.inner, weight + column * sizes.inner, bias == nullptr ? nullptr : bias + column,
          epilogue.from(column), std::min<int64_t>(PANEL, sizes.columns - column)};
      multiply_panel(work, first, last);
    });
  }
}

}  // namespace precast

#endif
