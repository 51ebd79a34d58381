// Rows there and back. Both ways go by token, so that a token's row is in the cache while its k copies are written, or summed.
#pragma once

#include "math.inc.h"

namespace {

inline void permute(const void* x, const int32_t* inverse, void* out, int64_t tokens, int64_t k, int64_t bytes, bool stream) {
  const bool is_stream = stream && bytes % 64 == 0 && is_aligned(out);
  for (int64_t token = 0; token < tokens; token++) {
    const char* const from = static_cast<const char*>(x) + token * bytes;
    for (int64_t slot = 0; slot < k; slot++) {
      char* const to = static_cast<char*>(out) + inverse[token * k + slot] * bytes;
      if (is_stream) {
        for (int64_t i = 0; i < bytes; i += 64) copy_line_past_caches(to + i, from + i);
      } else {
        memcpy(to, from, static_cast<size_t>(bytes));
      }
    }
  }
  if (is_stream) fence();
}

// --- sums ----------------------------------------------------------------------------------------------------------------------------

constexpr int PAIRS = 2;  // of vectors that are summed side by side

template <int N, bool IS_STREAM, class T>
inline void combine_blocks(const T* y, const int32_t* rows, const float* weights, int64_t k, int64_t width, T* out) {
  Floats total[2 * N], a, b;
  for (int i = 0; i < 2 * N; i++) total[i] = 0.0f;
  for (int64_t slot = 0; slot < k; slot++) {
    const T* const row = y + rows[slot] * width;
    const Floats weight = weights != nullptr ? weights[slot] : 1.0f;
    for (int i = 0; i < N; i++) {
      load_pair(row + i * BLOCK, a, b);
      total[2 * i] = multiply_add(a, weight, total[2 * i]);
      total[2 * i + 1] = multiply_add(b, weight, total[2 * i + 1]);
    }
  }
  for (int i = 0; i < N; i++) put_pair<IS_STREAM>(out + i * BLOCK, total[2 * i], total[2 * i + 1]);
}

template <class T>
void combine_rest(const T* y, const int32_t* rows, const float* weights, int64_t k, int64_t width, int64_t rest, T* out) {
  float totals[BLOCK] = {};
  for (int64_t slot = 0; slot < k; slot++) {
    T values[BLOCK] = {};
    float floats[BLOCK];
    Floats a, b, c, d;
    copy_values(values, y + rows[slot] * width, rest);
    load_pair(values, a, b);
    load_pair(totals, c, d);
    const Floats weight = weights != nullptr ? weights[slot] : 1.0f;
    store_pair(floats, multiply_add(a, weight, c), multiply_add(b, weight, d));
    copy_values(totals, floats, BLOCK);
  }
  T result[BLOCK];
  Floats a, b;
  load_pair(totals, a, b);
  store_pair(result, a, b);
  copy_values(out, result, rest);
}

template <bool IS_STREAM, class T>
void combine_range(const T* y, const int32_t* inverse, const float* weights, T* out, int64_t tokens, int64_t k, int64_t width) {
  for (int64_t token = 0; token < tokens; token++) {
    const int32_t* const rows = inverse + token * k;
    const float* const mine = weights != nullptr ? weights + token * k : nullptr;
    T* const to = out + token * width;
    int64_t i = 0;
    for (; i + PAIRS * BLOCK <= width; i += PAIRS * BLOCK) combine_blocks<PAIRS, IS_STREAM>(y + i, rows, mine, k, width, to + i);
    for (; i + BLOCK <= width; i += BLOCK) combine_blocks<1, IS_STREAM>(y + i, rows, mine, k, width, to + i);
    if (i < width) combine_rest(y + i, rows, mine, k, width, width - i, to + i);
  }
  if (IS_STREAM) fence();
}

template <class T>
void combine(
    const void* y, const int32_t* inverse, const float* weights, void* out, int64_t tokens, int64_t k, int64_t width, bool stream) {
  const bool is_stream = stream && is_aligned(out) && width * static_cast<int64_t>(sizeof(T)) % 64 == 0;
  const auto run = is_stream ? combine_range<true, T> : combine_range<false, T>;
  run(static_cast<const T*>(y), inverse, weights, static_cast<T*>(out), tokens, k, width);
}

// --- gradient of the sums --------------------------------------------------------------------------------------------------------------

// grad_y = grad * weight; the sum of grad * y.
template <bool IS_STREAM, class T>
inline float combine_row_backward(const T* grad, const T* y, float weight, T* grad_y, int64_t width) {
  Floats first = 0.0f, second = 0.0f, a, b, c, d;
  const int64_t whole = width / BLOCK * BLOCK, rest = width - whole;
  for (int64_t i = 0; i < whole; i += BLOCK) {
    load_pair(grad + i, a, b);
    load_pair(y + i, c, d);
    first = multiply_add(a, c, first);
    second = multiply_add(b, d, second);
    put_pair<IS_STREAM>(grad_y + i, a * weight, b * weight);
  }
  if (rest != 0) {
    T of_out[BLOCK] = {}, values[BLOCK] = {}, of_y[BLOCK];
    copy_values(of_out, grad + whole, rest);
    copy_values(values, y + whole, rest);
    load_pair(of_out, a, b);
    load_pair(values, c, d);
    first = multiply_add(a, c, first);
    second = multiply_add(b, d, second);
    store_pair(of_y, a * weight, b * weight);
    copy_values(grad_y + whole, of_y, rest);
  }
  return sum(first + second);
}

template <bool IS_STREAM, class T>
void combine_backward_range(
    const T* grad, const T* y, const int32_t* inverse, const float* weights, T* grad_y, float* grad_weights, int64_t tokens, int64_t k,
    int64_t width) {
  for (int64_t pair = 0; pair < tokens * k; pair++) {
    const int64_t row = inverse[pair] * width;
    grad_weights[pair] = combine_row_backward<IS_STREAM>(grad + pair / k * width, y + row, weights[pair], grad_y + row, width);
  }
  if (IS_STREAM) fence();
}

template <class T>
void combine_backward(
    const void* grad, const void* y, const int32_t* inverse, const float* weights, void* grad_y, float* grad_weights, int64_t tokens,
    int64_t k, int64_t width, bool stream) {
  const bool is_stream = stream && is_aligned(grad_y) && width * static_cast<int64_t>(sizeof(T)) % 64 == 0;
  const auto run = is_stream ? combine_backward_range<true, T> : combine_backward_range<false, T>;
  run(static_cast<const T*>(grad), static_cast<const T*>(y), inverse, weights, static_cast<T*>(grad_y), grad_weights, tokens, k, width);
}

}  // namespace
