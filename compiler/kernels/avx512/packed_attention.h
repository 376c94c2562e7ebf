// Attention within the sequences of a packed batch; only the last panel of sixteen keys is padded.
//
// One work item is a head of a sequence, or a part of its queries if there are few heads. Its keys and values
// are copied to panels, which stay in cache; then scores, a softmax in fp32 and the weighted sum of values are
// computed for twelve queries at a time.
#ifndef PRECAST_PACKED_ATTENTION_H
#define PRECAST_PACKED_ATTENTION_H

#include "panels.h"
#include "threads.h"

namespace precast {

// [T][heads][head_dim] with contiguous heads; `stride` is the distance between tokens, in numbers.
template <class Number>
struct Heads {
  const Number* at;
  int64_t stride;
};

struct AttentionSizes {
  int64_t tokens, sequences, heads, kv_heads, head_dim;
  // Keys that a query sees to its left and right; -1 for all.
  int64_t left, right;
  // The bias is [heads][2 * max_distance + 1], by the clamped distance from the query to the key.
  int64_t max_distance;
  // Positive.
  float scale;
};

template <class Type>
struct AttentionScratch {
  using Number = typename Type::A;
  Scratch<Number> keys, values, queries, weights;
  Scratch<float> scores;

  AttentionScratch(int64_t longest, int64_t head_dim)
      : keys(up_to(longest, LANES) * up_to(head_dim, LANES * Type::GROUP)),
        values(up_to(longest, LANES) * up_to(head_dim, LANES)),
        queries(TILE_ROWS * up_to(head_dim, LANES * Type::GROUP)),
        weights(TILE_ROWS * up_to(longest, LANES)),
        scores(TILE_ROWS * up_to(longest, LANES)) {}
};

// One head of one sequence.
template <class Type>
struct Head {
  using Number = typename Type::A;
  Heads<Number> query;
  const float* bias;
  Number* output;
  AttentionSizes sizes;
  AttentionScratch<Type>& memory;
  int64_t begin, length, width, value_width, head;

  // The range of keys that queries first .. last see, in multiples of 16.
  Share visible(int64_t first, int64_t last) const {
    const int64_t from = sizes.left < 0 ? 0 : std::max<int64_t>(0, first - sizes.left) / LANES * LANES;
    const int64_t upto = sizes.right < 0 ? length : std::min(length, last + sizes.right + 1);
    return {from, up_to(upto, LANES)};
  }

  template <int ROWS>
  void run(int64_t first) const {
    const Share keys = visible(first, first + ROWS - 1);
    score<ROWS>(first, keys);
    for (int row = 0; row < ROWS; ++row) {
      float* scores = memory.scores.get() + row * width;
      if (bias != nullptr) add_bias(scores, first + row, keys);
      hide(scores, first + row, keys);
    }
    float shares[ROWS];
    weigh<ROWS>(keys, shares);
    gather<ROWS>(first, keys, shares);
  }

  template <int ROWS, int WIDE>
  void score_panel(const Number* from, int64_t stride, int64_t key) const {
    typename Type::Sum sums[ROWS][WIDE];
    const int64_t groups = (sizes.head_dim + Type::GROUP - 1) / Type::GROUP;
    multiply<Type, ROWS, WIDE>(from, stride, memory.keys.get() + key * Type::GROUP, width * Type::GROUP, groups, sums);
#pragma GCC unroll 12
    for (int row = 0; row < ROWS; ++row)
#pragma GCC unroll 4
      for (int part = 0; part < WIDE; ++part)
        store(memory.scores.get() + row * width + key + part * LANES, sums[row][part]);
  }

  template <int ROWS>
  void score(int64_t first, Share keys) const {
    const Number* from = query.at + (begin + first) * query.stride;
    int64_t stride = query.stride;
    if (sizes.head_dim % Type::GROUP != 0) {  // the last group would reach into the next head
      stride = up_to(sizes.head_dim, LANES * Type::GROUP);
      for (int row = 0; row < ROWS; ++row)
        for (int64_t at = 0; at < stride; ++at)
          memory.queries[row * stride + at] = at < sizes.head_dim ? from[row * query.stride + at] : Number(0.0f);
      from = memory.queries.get();
    }
    constexpr int WIDE = wide_of(ROWS);
    int64_t key = keys.begin;
    for (; key + WIDE * LANES <= keys.end; key += WIDE * LANES) score_panel<ROWS, WIDE>(from, stride, key);
    for (; key < keys.end; key += LANES) score_panel<ROWS, 1>(from, stride, key);
  }

  // Converts scores to weights that are not yet divided by their sums; `shares` are the inverse sums. All queries
  // advance together: one at a time, each reduction would stall the pipeline.
  template <int ROWS>
  void weigh(Share keys, float (&shares)[ROWS]) const {
    const float* scores = memory.scores.get();
    __m512 found[ROWS];
#pragma GCC unroll 12
    for (int row = 0; row < ROWS; ++row) found[row] = load(scores + row * width + keys.begin);
    for (int64_t key = keys.begin + LANES; key < keys.end; key += LANES)
#pragma GCC unroll 12
      for (int row = 0; row < ROWS; ++row) found[row] = _mm512_max_ps(found[row], load(scores + row * width + key));
    // Powers of two: scaling and subtraction are one instruction.
    const float factor = (bias == nullptr ? sizes.scale : 1.0f) * LOG2_E;
    float shifts[ROWS];
#pragma GCC unroll 12
    for (int row = 0; row < ROWS; ++row) shifts[row] = -factor * _mm512_reduce_max_ps(found[row]);
    for (int row = 0; row < ROWS; ++row)
      found[row] = raise(scores + row * width, memory.weights.get() + row * width, keys, factor, shifts[row]);
#pragma GCC unroll 12
    for (int row = 0; row < ROWS; ++row) shares[row] = 1.0f / _mm512_reduce_add_ps(found[row]);
  }

  // The weights of one query, 2^(score * factor + shift). Returns sixteen partial sums.
  static __m512 raise(const float* scores, Number* weights, Share keys, float factor, float shift) {
    const __m512 by = _mm512_set1_ps(factor), plus = _mm512_set1_ps(shift);
    __m512 total = _mm512_setzero_ps();
    for (int64_t key = keys.begin; key < keys.end; key += LANES) {
      const __m512 weight = power_of_two<Number>(_mm512_fmadd_ps(load(scores + key), by, plus));
      total = _mm512_add_ps(total, weight);
      store(weights + key, weight);
    }
    return total;
  }

  void add_bias(float* scores, int64_t position, Share keys) const {
    const __m512 scale = _mm512_set1_ps(sizes.scale);
    for (int64_t key = keys.begin; key < keys.end; key += LANES)
      store(scores + key, _mm512_fmadd_ps(load(scores + key), scale, bias_of(position, key)));
  }

  // Masks keys that the query does not see with -infinity; only the outer panels contain any.
  void hide(float* scores, int64_t position, Share keys) const {
    const int64_t first = sizes.left < 0 ? 0 : std::max<int64_t>(0, position - sizes.left);
    const int64_t last = sizes.right < 0 ? length - 1 : std::min(length - 1, position + sizes.right);
    for (int64_t key = keys.begin; key < first; key += LANES) keep(scores + key, ~first_lanes(first - key));
    for (int64_t key = (last + 1) / LANES * LANES; key < keys.end; key += LANES)
      keep(scores + key, first_lanes(last + 1 - key));
  }

  // Writes whole registers: a load after a partial store would stall (no store forwarding).
  static void keep(float* scores, __mmask16 seen) {
    store(scores, _mm512_mask_mov_ps(_mm512_set1_ps(-INFINITY), seen, load(scores)));
  }

  __m512 bias_of(int64_t position, int64_t key) const {
    const float* table = bias + head * (2 * sizes.max_distance + 1);
    const __m512i lane = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const __m512i distance = _mm512_add_epi32(lane, _mm512_set1_epi32(static_cast<int32_t>(key - position)));
    const __m512i max_distance = _mm512_set1_epi32(static_cast<int32_t>(sizes.max_distance));
    const __m512i least = _mm512_sub_epi32(_mm512_setzero_si512(), max_distance);
    const __m512i bounded = _mm512_max_epi32(_mm512_min_epi32(distance, max_distance), least);
    return _mm512_i32gather_ps(_mm512_add_epi32(bounded, max_distance), table, 4);
  }

  template <int ROWS, int WIDE>
  void gather_panel(int64_t first, Share keys, const float (&shares)[ROWS], int64_t column) const {
    typename Type::Sum sums[ROWS][WIDE];
    const Number* values = memory.values.get() + keys.begin * value_width + column * Type::GROUP;
    multiply<Type, ROWS, WIDE>(memory.weights.get() + keys.begin, width, values, value_width * Type::GROUP,
                               (keys.end - keys.begin) / Type::GROUP, sums);
#pragma GCC unroll 12
    for (int row = 0; row < ROWS; ++row) {
      Number* to = output + ((begin + first + row) * sizes.heads + head) * sizes.head_dim;
#pragma GCC unroll 4
      for (int part = 0; part < WIDE; ++part) {
        const int64_t at = column + part * LANES;
        store(to + at, _mm512_mul_ps(sums[row][part], _mm512_set1_ps(shares[row])), first_lanes(sizes.head_dim - at));
      }
    }
  }

  template <int ROWS>
  void gather(int64_t first, Share keys, const float (&shares)[ROWS]) const {
    constexpr int WIDE = wide_of(ROWS);
    int64_t column = 0;
    for (; column + WIDE * LANES <= value_width; column += WIDE * LANES)
      gather_panel<ROWS, WIDE>(first, keys, shares, column);
    for (; column + 2 * LANES <= value_width; column += 2 * LANES) gather_panel<ROWS, 2>(first, keys, shares, column);
    for (; column < value_width; column += LANES) gather_panel<ROWS, 1>(first, keys, shares, column);
  }
};

// Args: `query` [T][heads][head_dim], `key` and `value` [T][kv_heads][head_dim], `cu_seqlens` [sequences + 1],
// `bias` fp32 or null, `output` [T][heads * head_dim]; spare tokens get zeros.
template <class Type>
inline void packed_attention(Heads<typename Type::A> query, Heads<typename Type::A> key, Heads<typename Type::A> value,
                             const int32_t* cu_seqlens, const float* bias, typename Type::A* output,
                             AttentionSizes sizes) {
  using Number = typename Type::A;
  int64_t longest = 0;
  for (int64_t at = 0; at < sizes.sequences; ++at)
    longest = std::max<int64_t>(longest, cu_seqlens[at + 1] - cu_seqlens[at]);
  const int64_t row = sizes.heads * sizes.head_dim;
  std::fill(output + cu_seqlens[sizes.sequences] * row, output + sizes.tokens * row, Number(0.0f));
  // With few heads, several work items share one, at least 96 queries each, as every item copies the keys.
  const int64_t threads = omp_get_max_threads();
  const int64_t wanted = std::max<int64_t>(1, 2 * threads / std::max<int64_t>(1, sizes.sequences * sizes.heads));
  const int64_t parts = std::min(wanted, std::max<int64_t>(1, longest / 96));
  const int64_t pieces = sizes.sequences * sizes.heads * parts;
  // Many small items are scheduled in chunks: the heads of a token share cache lines.
  const int64_t some = std::max<int64_t>(1, pieces / (SHARES * threads));
#pragma omp parallel
  {
    AttentionScratch<Type> memory(longest, sizes.head_dim);
#pragma omp for schedule(dynamic, some)
    for (int64_t piece = 0; piece < pieces; ++piece) {
      const int64_t head = piece / parts % sizes.heads, sequence = piece / parts / sizes.heads;
      const int64_t begin = cu_seqlens[sequence], length = cu_seqlens[sequence + 1] - begin;
      const Share rows = share_of(length, piece % parts, parts);
      if (rows.begin == rows.end) continue;
      const int64_t of = head / (sizes.heads / sizes.kv_heads) * sizes.head_dim;
      const int64_t width = up_to(length, LANES), value_width = up_to(sizes.head_dim, LANES);
      lay_keys<Type>(key.at + begin * key.stride + of, key.stride, length, sizes.head_dim, width, memory.keys.get());
      lay_values(value.at + begin * value.stride + of, value.stride, length, width, sizes.head_dim, value_width,
                 memory.values.get());
      const Heads<Number> queries{query.at + head * sizes.head_dim, query.stride};
      by_rows<TILE_ROWS>(
          rows.begin, rows.end,
          Head<Type>{queries, bias, output, sizes, memory, begin, length, width, value_width, head});
    }
  }
}

}  // namespace precast

#endif
