// Who gets which token: the highest k of each row, their weights, the gradient, and the balance of the whole.
#pragma once

#include <math.h>

#include "math.inc.h"

namespace {

constexpr float INFINITE = __builtin_inff();

// The k highest of N vectors of keys, descending, equal ones by index. Keys that are taken become the lowest there are, which no value has.
template <int N>
inline void take_highest_of(const int32_t* keys, int64_t k, int32_t* indices) {
  static_assert(N * WIDTH <= 128);
  Keys all[N];
  for (int i = 0; i < N; i++) all[i] = load_keys(keys + i * WIDTH);
  for (int64_t slot = 0; slot < k; slot++) {
    Keys top = all[0];
    for (int i = 1; i < N; i++) top = highest(top, all[i]);
    const int32_t best = highest(top);
    uint64_t same[2] = {};
    for (int i = 0; i < N; i++) same[i * WIDTH / 64] |= equal(all[i], best) << (i * WIDTH % 64);
    const bool is_low = same[0] != 0;
    const int first = __builtin_ctzll(is_low ? same[0] : same[1]);
    indices[slot] = first + (is_low ? 0 : 64);
    const uint64_t bit = uint64_t{1} << first, taken[2] = {is_low ? bit : 0, is_low ? 0 : bit};
    for (int i = 0; i < N; i++) all[i] = lowered(all[i], taken[i * WIDTH / 64] >> (i * WIDTH % 64));
  }
}

// The same of any number of them, whole vectors.
inline void take_highest(int32_t* keys, int64_t count, int64_t k, int32_t* indices) {
  if (count <= WIDTH) return take_highest_of<1>(keys, k, indices);
  if (WIDTH > 1 && count == 2 * WIDTH) return take_highest_of<2>(keys, k, indices);
  if (WIDTH > 1 && count == 4 * WIDTH) return take_highest_of<4>(keys, k, indices);
  if (WIDTH > 1 && count == 8 * WIDTH) return take_highest_of<8>(keys, k, indices);
  for (int64_t slot = 0; slot < k; slot++) {
    Keys top = load_keys(keys);
    for (int64_t i = WIDTH; i < count; i += WIDTH) top = highest(top, load_keys(keys + i));
    const int32_t best = highest(top);
    int64_t i = 0;
    uint64_t same = equal(load_keys(keys), best);
    while (same == 0) same = equal(load_keys(keys + (i += WIDTH)), best);
    store_keys(keys + i, lowered(load_keys(keys + i), same & -same));
    indices[slot] = static_cast<int32_t>(i + __builtin_ctzll(same));
  }
}

// In double, for k may be large, and the values stand one behind the other.
inline float sum_of(const float* values, int64_t count) {
  double total = 0;
  for (int64_t i = 0; i < count; i++) total += values[i];
  return static_cast<float>(total);
}

// exp(values - shift) in their place; their sum.
inline float exponentials(float* values, int64_t count, float shift) {
  Floats total = 0.0f;
  for (int64_t i = 0; i < count; i += WIDTH) {
    const Floats e = exponential(load(values + i) - shift);
    store(values + i, e);
    total = total + e;
  }
  return sum(total);
}

inline void route_token(p2pnode::Routing how, float* values, int32_t* keys, float* chosen, float* weights, int32_t* indices, float* lse) {
  const int64_t experts = span(how.experts);
  for (int64_t i = 0; i < experts; i += WIDTH) store_keys(keys + i, keys_of(load(values + i)));
  // Behind the experts stand -infinities that must not be chosen, even where others are.
  for (int64_t i = how.experts; i < experts; i++) keys[i] = INT32_MIN;
  take_highest(keys, experts, how.k, indices);
  const float top = values[indices[0]];  // NaN, if there is one
  if (how.is_sigmoid) {
    for (int64_t slot = 0; slot < how.k; slot++) chosen[slot] = values[indices[slot]];
    for (int64_t i = 0; i < how.k; i += WIDTH) store(chosen + i, sigmoid<float>(load(chosen + i)));
  }
  const float total = exponentials(values, experts, top);
  *lse = fabsf(top) == INFINITE ? top : top + logf(total);
  float scaled = 1.0f;
  if (!how.is_sigmoid) {
    for (int64_t slot = 0; slot < how.k; slot++) chosen[slot] = values[indices[slot]];
    scaled = total;
  }
  if (how.renorm) scaled = sum_of(chosen, how.k);
  for (int64_t slot = 0; slot < how.k; slot++) weights[slot] = chosen[slot] / scaled;
}

template <class T>
void route(
    const void* logits, int64_t tokens, p2pnode::Routing how, float* weights, int32_t* indices, int32_t* counts, float* lse,
    float* scratch) {
  float* const values = scratch;
  float* const chosen = scratch + 2 * p2pnode::padded(how.experts);
  for (int64_t slot = 0; slot < p2pnode::padded(how.k); slot++) chosen[slot] = 0.0f;
  int32_t* const keys = reinterpret_cast<int32_t*>(scratch + p2pnode::padded(how.experts));
  for (int64_t token = 0; token < tokens; token++) {
    read_row(static_cast<const T*>(logits) + token * how.experts, values, how.experts, -INFINITE);
    route_token(how, values, keys, chosen, weights + token * how.k, indices + token * how.k, lse + token);
    for (int64_t slot = 0; slot < how.k; slot++) counts[indices[token * how.k + slot]]++;
  }
}

// --- gradient --------------------------------------------------------------------------------------------------------------------------

// values: a row of logits; becomes its gradient.
inline void route_token_backward(
    p2pnode::Routing how, float* values, const float* grad_weights, const float* grad_lse, const int32_t* indices, const float* weights,
    float lse, float* of_chosen) {
  const int64_t experts = span(how.experts);
  double products = 0;
  for (int64_t slot = 0; slot < how.k; slot++) products += static_cast<double>(grad_weights[slot]) * weights[slot];
  const float mean = static_cast<float>(products);
  float total = 1.0f;
  if (how.is_sigmoid) {
    for (int64_t slot = 0; slot < how.k; slot++) of_chosen[slot] = values[indices[slot]];
    for (int64_t i = 0; i < how.k; i += WIDTH) store(of_chosen + i, sigmoid<float>(load(of_chosen + i)));
    if (how.renorm) total = sum_of(of_chosen, how.k);
  }
  // Every logit has a part in the sum of a softmax over all, and in lse.
  float of_all = how.renorm || how.is_sigmoid ? 0.0f : -mean;
  if (grad_lse != nullptr) of_all += *grad_lse;
  if (grad_lse != nullptr || !(how.renorm || how.is_sigmoid)) {
    for (int64_t i = 0; i < experts; i += WIDTH) store(values + i, exponential(load(values + i) - lse) * of_all);
  } else {
    for (int64_t i = 0; i < experts; i += WIDTH) store(values + i, Floats(0.0f));
  }
  for (int64_t slot = 0; slot < how.k; slot++) {
    const float slope = how.renorm ? (grad_weights[slot] - mean) / total : grad_weights[slot];
    const float score = of_chosen[slot];
    values[indices[slot]] += how.is_sigmoid ? slope * score * (1.0f - score) : slope * weights[slot];
  }
}

template <class T>
void route_backward(
    const float* grad_weights, const float* grad_lse, const void* logits, const int32_t* indices, const float* weights, const float* lse,
    int64_t tokens, p2pnode::Routing how, void* grad, float* scratch) {
  float* const values = scratch;
  float* const of_chosen = scratch + 2 * p2pnode::padded(how.experts);
  for (int64_t slot = 0; slot < p2pnode::padded(how.k); slot++) of_chosen[slot] = 0.0f;
  for (int64_t token = 0; token < tokens; token++) {
    read_row(static_cast<const T*>(logits) + token * how.experts, values, how.experts, -INFINITE);
    route_token_backward(
        how, values, grad_weights + token * how.k, grad_lse != nullptr ? grad_lse + token : nullptr, indices + token * how.k,
        weights + token * how.k, lse[token], of_chosen);
    write_row(values, static_cast<T*>(grad) + token * how.experts, how.experts);
  }
}

// --- balance ---------------------------------------------------------------------------------------------------------------------------

template <class T>
void probabilities(const void* logits, const float* lse, int64_t tokens, int64_t experts, float* sums, float* scratch) {
  const int64_t whole = span(experts);
  for (int64_t token = 0; token < tokens; token++) {
    read_row(static_cast<const T*>(logits) + token * experts, scratch, experts, -INFINITE);
    for (int64_t i = 0; i < whole; i += WIDTH) {
      store(sums + i, load(sums + i) + exponential(load(scratch + i) - lse[token]));
    }
  }
}

template <class T>
void aux_loss_backward(
    const void* logits, const float* lse, const float* fractions, float scale, int64_t tokens, int64_t experts, void* grad,
    float* scratch) {
  const int64_t whole = span(experts);
  for (int64_t token = 0; token < tokens; token++) {
    read_row(static_cast<const T*>(logits) + token * experts, scratch, experts, -INFINITE);
    Floats total = 0.0f;
    for (int64_t i = 0; i < whole; i += WIDTH) {
      const Floats p = exponential(load(scratch + i) - lse[token]);
      store(scratch + i, p);
      total = multiply_add(p, load(fractions + i), total);
    }
    const float mean = sum(total);
    for (int64_t i = 0; i < whole; i += WIDTH) {
      store(scratch + i, load(scratch + i) * scale * (load(fractions + i) - mean));
    }
    write_row(scratch, static_cast<T*>(grad) + token * experts, experts);
  }
}

}  // namespace
