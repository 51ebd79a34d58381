// Who gets which token: the highest k of each row, their weights, the gradient, and the balance of the whole.
#pragma once

#include <math.h>

#include "math.inc.h"

namespace {

constexpr float INFINITE = __builtin_inff();

// The k highest of `count` keys (a whole PAD), descending, equal ones by index. Keys that are taken become the lowest there are, which no
// value has.
inline void take_highest(int32_t* keys, int64_t count, int64_t k, int32_t* indices) {
  for (int64_t slot = 0; slot < k; slot++) {
    Keys top = load_keys(keys);
    for (int64_t i = WIDTH; i < count; i += WIDTH) top = highest(top, load_keys(keys + i));
    const int32_t best = highest(top);
    for (int64_t word = 0; word < count; word += 64) {
      uint64_t same = 0;
      for (int lane = 0; lane < 64; lane += WIDTH) same |= equal(load_keys(keys + word + lane), best) << lane;
      if (same == 0) continue;
      const int first = __builtin_ctzll(same), lane = first / WIDTH * WIDTH;
      int32_t* const place = keys + word + lane;
      store_keys(place, lowered(load_keys(place), uint64_t{1} << (first - lane)));
      indices[slot] = static_cast<int32_t>(word + first);
      break;
    }
  }
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
  const int64_t experts = p2pnode::padded(how.experts), k = p2pnode::padded(how.k);
  for (int64_t i = 0; i < experts; i += WIDTH) store_keys(keys + i, keys_of(load(values + i)));
  // Behind the experts stand -infinities that must not be chosen, even where others are.
  for (int64_t i = how.experts; i < experts; i++) keys[i] = INT32_MIN;
  take_highest(keys, experts, how.k, indices);
  for (int64_t slot = 0; slot < how.k; slot++) chosen[slot] = values[indices[slot]];
  for (int64_t slot = how.k; slot < k; slot++) chosen[slot] = -INFINITE;
  const float top = chosen[0];  // NaN, if there is one
  const float total = exponentials(values, experts, top);
  *lse = fabsf(top) == INFINITE ? top : top + logf(total);
  float scaled = total;
  if (how.is_sigmoid) {
    for (int64_t i = 0; i < k; i += WIDTH) store(chosen + i, sigmoid<float>(load(chosen + i)));
    scaled = 1.0f;
  } else {
    exponentials(chosen, k, top);
  }
  if (how.renorm) {
    scaled = 0.0f;
    for (int64_t slot = 0; slot < how.k; slot++) scaled += chosen[slot];
  }
  for (int64_t slot = 0; slot < how.k; slot++) weights[slot] = chosen[slot] / scaled;
}

template <class T>
void route(
    const void* logits, int64_t tokens, p2pnode::Routing how, float* weights, int32_t* indices, int32_t* counts, float* lse,
    float* scratch) {
  float* const values = scratch;
  float* const chosen = scratch + 2 * p2pnode::padded(how.experts);
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
  const int64_t experts = p2pnode::padded(how.experts), padded_k = p2pnode::padded(how.k);
  float mean = 0.0f, total = 1.0f;
  for (int64_t slot = 0; slot < how.k; slot++) mean += grad_weights[slot] * weights[slot];
  if (how.is_sigmoid) {
    for (int64_t slot = 0; slot < how.k; slot++) of_chosen[slot] = values[indices[slot]];
    for (int64_t slot = how.k; slot < padded_k; slot++) of_chosen[slot] = 0.0f;
    for (int64_t i = 0; i < padded_k; i += WIDTH) store(of_chosen + i, sigmoid<float>(load(of_chosen + i)));
    if (how.renorm) {
      total = 0.0f;
      for (int64_t slot = 0; slot < how.k; slot++) total += of_chosen[slot];
    }
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
  for (int64_t slot = 0; slot < how.k; slot++) of_chosen[slot] = 0.0f;
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
  const int64_t padded = p2pnode::padded(experts);
  for (int64_t token = 0; token < tokens; token++) {
    read_row(static_cast<const T*>(logits) + token * experts, scratch, experts, -INFINITE);
    for (int64_t i = 0; i < padded; i += WIDTH) {
      store(sums + i, load(sums + i) + exponential(load(scratch + i) - lse[token]));
    }
  }
}

template <class T>
void aux_loss_backward(
    const void* logits, const float* lse, const float* fractions, float scale, int64_t tokens, int64_t experts, void* grad,
    float* scratch) {
  const int64_t padded = p2pnode::padded(experts);
  for (int64_t token = 0; token < tokens; token++) {
    read_row(static_cast<const T*>(logits) + token * experts, scratch, experts, -INFINITE);
    Floats total = 0.0f;
    for (int64_t i = 0; i < padded; i += WIDTH) {
      const Floats p = exponential(load(scratch + i) - lse[token]);
      store(scratch + i, p);
      total = multiply_add(p, load(fractions + i), total);
    }
    const float mean = sum(total);
    for (int64_t i = 0; i < padded; i += WIDTH) {
      store(scratch + i, load(scratch + i) * scale * (load(fractions + i) - mean));
    }
    write_row(scratch, static_cast<T*>(grad) + token * experts, experts);
  }
}

}  // namespace
