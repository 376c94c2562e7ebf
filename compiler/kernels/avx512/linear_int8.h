// A linear layer with int8 weights: each row of x is quantized dynamically.
//
// x is approximately (q - zero) * scale with q = 0 .. 255, one scale and zero a row; W is w * the scale of its column.
// So x W^T is approximately (q w - zero * sum of w's column) * both scales, and q w is exact. Columns of x are
// first multiplied by `smooth`, whose inverse is part of W: this moves outliers of x into W (SmoothQuant).
#ifndef PRECAST_LINEAR_INT8_H
#define PRECAST_LINEAR_INT8_H

#ifdef __AVX512VNNI__

#include "linear.h"

namespace precast {

struct Quantized {
  // `numbers` is [rows][padded inner]; `scale` and `zero` are [rows].
  uint8_t* numbers;
  float* scale;
  float* zero;
  int64_t stride;
};

// Sixteen smoothed numbers of a row; the last group may be partial.
template <class Input>
inline __m512 smoothed(const Input* x, const float* smooth, int64_t at, __mmask16 live) {
  return _mm512_mul_ps(load(x + at, live), load(smooth + at, live));
}

inline __m128i to_bytes(__m512 value, __m512 inverse, __m512 shift) {
  const __m512i rounded = _mm512_cvtps_epi32(_mm512_fmadd_ps(value, inverse, shift));
  return _mm512_cvtusepi32_epi8(_mm512_max_epi32(rounded, _mm512_setzero_si512()));
}

template <class Input>
PRECAST_ALONE void quantize_row(const Input* x, const float* smooth, int64_t inner, Quantized into, int64_t row) {
  const int64_t whole = inner / LANES * LANES;
  const __mmask16 last = first_lanes(inner - whole);
  // Lanes after the last number are zero, which every range includes.
  __m512 low = _mm512_min_ps(_mm512_setzero_ps(), smoothed(x, smooth, whole, last));
  __m512 high = _mm512_max_ps(_mm512_setzero_ps(), smoothed(x, smooth, whole, last));
  for (int64_t at = 0; at < whole; at += LANES) {
    const __m512 value = smoothed(x, smooth, at, 0xffff);
    low = _mm512_min_ps(low, value);
    high = _mm512_max_ps(high, value);
  }
  const float least = _mm512_reduce_min_ps(low);
  const float scale = std::max((_mm512_reduce_max_ps(high) - least) / 255.0f, 1e-30f);
  const float zero = std::nearbyint(-least / scale);
  const __m512 inverse = _mm512_set1_ps(1.0f / scale), shift = _mm512_set1_ps(zero);
  uint8_t* numbers = into.numbers + row * into.stride;
  for (int64_t at = 0; at < whole; at += LANES)
    _mm_storeu_si128((__m128i*)(numbers + at), to_bytes(smoothed(x, smooth, at, 0xffff), inverse, shift));
  _mm_mask_storeu_epi8(numbers + whole, first_lanes(into.stride - whole),
                       to_bytes(smoothed(x, smooth, whole, last), inverse, shift));
  into.scale[row] = scale;
  into.zero[row] = zero;
}

struct Int8Weight {
  const int8_t* panels;
  // The scale and the sum of the numbers of every column, padded to whole panels.
  const float* scale;
  const float* sum;
};

template <class Activation, class Output>
struct Int8Panel {
  using Type = Int8;
  const uint8_t* x;
  int64_t stride, inner;
  const int8_t* weights;
  // Scales and zeros of all rows; the others from the panel's first column on.
  const float *row_scale, *row_zero, *scale, *column_sum, *bias;
  Epilogue<Activation, Output> epilogue;
  int64_t wanted;

  struct Columns {
    int64_t first;
    __mmask16 live;
    __m512 scale, sum, bias;
  };

  Columns columns_at(int64_t column) const {
    const __mmask16 live = first_lanes(wanted - column);
    return {column, live, _mm512_loadu_ps(scale + column), _mm512_loadu_ps(column_sum + column),
            bias == nullptr ? _mm512_setzero_ps() : load(bias + column, live)};
  }

  void put(const Columns& columns, int64_t row, __m512i sum) const {
    const __m512 product = _mm512_cvtepi32_ps(sum);
    const __m512 whole = _mm512_fnmadd_ps(columns.sum, _mm512_set1_ps(row_zero[row]), product);
    const __m512 scaled = _mm512_mul_ps(whole, columns.scale);
    const __m512 value = _mm512_fmadd_ps(scaled, _mm512_set1_ps(row_scale[row]), columns.bias);
    epilogue.put(row, columns.first, value, columns.live);
  }
};

// Like `linear`; `smooth` is [inner].
template <class Activation, class Input, class Output>
inline void linear_int8(const Input* x, const float* smooth, Int8Weight weight, const float* bias,
                        const Output* residual, Output* y, LinearSizes sizes) {
  const Epilogue<Activation, Output> epilogue{y, residual, sizes.columns};
  const int64_t stride = up_to(sizes.inner, 4);
  Scratch<uint8_t> numbers(sizes.rows * stride);
  Scratch<float> scales(sizes.rows), zeros(sizes.rows);
  const Quantized quantized{numbers.get(), scales.get(), zeros.get(), stride};
#pragma omp parallel
  {
    const Chunks<Int8> chunks(sizes.rows, omp_get_num_threads());
    const Share share = chunks.prepared_by(omp_get_thread_num());
    for (int64_t row = share.begin; row < share.end; ++row)
      quantize_row(x + row * sizes.x_stride, smooth, sizes.inner, quantized, row);
    if (chunks.shared()) {
#pragma omp barrier
    }
    over_chunks(chunks, sizes.columns, [&](int64_t panel, int64_t first, int64_t last) {
      const int64_t column = panel * PANEL;
      const Int8Panel<Activation, Output> work{
          quantized.numbers, stride, stride, weight.panels + column * stride, quantized.scale, quantized.zero,
          weight.scale + column, weight.sum + column, bias == nullptr ? nullptr : bias + column,
          epilogue.from(column), std::min<int64_t>(PANEL, sizes.columns - column)};
      multiply_panel(work, first, last);
    });
  }
}

}  // namespace precast

#endif
#endif
