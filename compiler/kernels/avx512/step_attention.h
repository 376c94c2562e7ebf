// One step of a decoder: each row attends to keys and values where they lie in the pools.
#ifndef PRECAST_STEP_ATTENTION_H
#define PRECAST_STEP_ATTENTION_H

#include "threads.h"
#include "vector.h"

namespace precast {

// [places][heads][head_dim], keys or values of one layer.
template <class Number>
struct Pools {
  const Number* keys;
  const Number* values;
};

struct StepSizes {
  int64_t rows, heads, head_dim;
  // Numbers from one row of the query to the next.
  int64_t stride;
  // Columns of the table of places; how many more keys than `counts` says a row sees.
  int64_t longest, more;
  // Of the bias, [heads][2 * reach + 1]; by the distance from the row's position, `counts`, to the key.
  int64_t reach;
  float scale;
};

template <class Number>
inline float dot(const Number* a, const Number* b, int64_t size) {
  __m512 sum = _mm512_setzero_ps();
  for (int64_t at = 0; at < size; at += LANES) {
    const __mmask16 live = first_lanes(size - at);
    sum = _mm512_fmadd_ps(load(a + at, live), load(b + at, live), sum);
  }
  return _mm512_reduce_add_ps(sum);
}

// Scores become weights, not yet divided by their sum, whose inverse is returned; `scores` has room for
// whole registers.
inline float to_weights(float* scores, int64_t count) {
  __m512 highest = _mm512_set1_ps(-INFINITY);
  for (int64_t at = 0; at < count; at += LANES) {
    const __m512 found = _mm512_mask_loadu_ps(_mm512_set1_ps(-INFINITY), first_lanes(count - at), scores + at);
    highest = _mm512_max_ps(highest, found);
    store(scores + at, found);
  }
  const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(highest));
  __m512 total = _mm512_setzero_ps();
  for (int64_t at = 0; at < count; at += LANES) {
    const __m512 weight = exponential(_mm512_sub_ps(load(scores + at), top));
    total = _mm512_add_ps(total, weight);
    store(scores + at, weight);
  }
  return 1.0f / _mm512_reduce_add_ps(total);
}

// Up to 64 numbers of the weighted sum of values.
template <class Number, int WIDE>
inline void sum_values(const Number* values, int64_t place_size, const int32_t* places, const float* weights,
                       int64_t count, float share, int64_t size, Number* output) {
  __m512 sums[WIDE];
  for (int part = 0; part < WIDE; ++part) sums[part] = _mm512_setzero_ps();
  for (int64_t key = 0; key < count; ++key) {
    const Number* value = values + places[key] * place_size;
    const __m512 weight = _mm512_set1_ps(weights[key]);
#pragma GCC unroll 4
    for (int part = 0; part < WIDE; ++part)
      sums[part] = _mm512_fmadd_ps(weight, load(value + part * LANES, first_lanes(size - part * LANES)), sums[part]);
  }
#pragma GCC unroll 4
  for (int part = 0; part < WIDE; ++part)
    store(output + part * LANES, _mm512_mul_ps(sums[part], _mm512_set1_ps(share)), first_lanes(size - part * LANES));
}

// Args: `query` [rows][heads][head_dim] with contiguous heads; `places` [N][longest]; `rows` [rows], which of
// the N rows; `counts` [N]; `bias` fp32 or null; `output` [rows][heads * head_dim], zeros where no key is seen.
template <class Number>
inline void step_attention(const Number* query, Pools<Number> pools, const int32_t* places, const int32_t* rows,
                           const int32_t* counts, const float* bias, Number* output, StepSizes sizes) {
  const int64_t size = sizes.head_dim, place_size = sizes.heads * size;
#pragma omp parallel
  {
    auto scores = scratch<float>(sizes.longest + LANES);
    const Share share = share_of(sizes.rows * sizes.heads, omp_get_thread_num(), omp_get_num_threads());
    for (int64_t piece = share.begin; piece < share.end; ++piece) {
      const int64_t at = piece / sizes.heads, head = piece % sizes.heads, row = rows[at];
      const int64_t count = std::min<int64_t>(counts[row] + sizes.more, sizes.longest);
      const int32_t* of_row = places + row * sizes.longest;
      const Number* asked = query + at * sizes.stride + head * size;
      Number* to = output + at * place_size + head * size;
      if (count <= 0) {
        std::fill(to, to + size, Number(0.0f));
        continue;
      }
      for (int64_t key = 0; key < count; ++key)
        scores[key] = dot(asked, pools.keys + of_row[key] * place_size + head * size, size) * sizes.scale;
      if (bias != nullptr)
        for (int64_t key = 0; key < count; ++key) {
          const int64_t distance = std::clamp(key - counts[row], -sizes.reach, sizes.reach);
          scores[key] += bias[head * (2 * sizes.reach + 1) + distance + sizes.reach];
        }
      const float inverse = to_weights(scores.get(), count);
      const Number* values = pools.values + head * size;
      int64_t part = 0;
      for (; part + 4 * LANES <= size; part += 4 * LANES)
        sum_values<Number, 4>(values + part, place_size, of_row, scores.get(), count, inverse, size - part, to + part);
      for (; part < size; part += LANES)
        sum_values<Number, 1>(values + part, place_size, of_row, scores.get(), count, inverse, size - part, to + part);
    }
  }
}

}  // namespace precast

#endif
