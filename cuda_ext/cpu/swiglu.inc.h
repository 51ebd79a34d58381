// silu(gate) * up and its gradient, in one pass over memory.
#pragma once

#include "math.inc.h"

namespace {

template <bool IS_STREAM, class T>
inline void swiglu_block(const T* gate, const T* up, T* out) {
  Floats g[2], u[2], y[2];
  load_pair(gate, g[0], g[1]);
  load_pair(up, u[0], u[1]);
  for (int i = 0; i < 2; i++) y[i] = g[i] * sigmoid<T>(g[i]) * u[i];
  put_pair<IS_STREAM>(out, y[0], y[1]);
}

template <bool IS_STREAM, class T>
inline void swiglu_backward_block(const T* grad, const T* gate, const T* up, T* grad_gate, T* grad_up) {
  Floats d[2], g[2], u[2], of_gate[2], of_up[2];
  load_pair(grad, d[0], d[1]);
  load_pair(gate, g[0], g[1]);
  load_pair(up, u[0], u[1]);
  for (int i = 0; i < 2; i++) {
    const Floats s = sigmoid<T>(g[i]), silu = g[i] * s;
    // d silu / d gate = sigmoid + silu * (1 - sigmoid)
    const Floats slope = multiply_add(silu, Floats(1.0f) - s, s);
    of_gate[i] = d[i] * u[i] * slope;
    of_up[i] = d[i] * silu;
  }
  put_pair<IS_STREAM>(grad_gate, of_gate[0], of_gate[1]);
  put_pair<IS_STREAM>(grad_up, of_up[0], of_up[1]);
}

template <bool IS_STREAM, class T>
void swiglu_range(const T* gate, const T* up, T* out, int64_t values) {
  const int64_t whole = values / BLOCK * BLOCK, rest = values - whole;
  for (int64_t i = 0; i < whole; i += BLOCK) swiglu_block<IS_STREAM>(gate + i, up + i, out + i);
  if (rest != 0) {
    T g[BLOCK] = {}, u[BLOCK] = {}, y[BLOCK];
    copy_values(g, gate + whole, rest);
    copy_values(u, up + whole, rest);
    swiglu_block<false>(g, u, y);
    copy_values(out + whole, y, rest);
  }
  if (IS_STREAM) fence();
}

template <bool IS_STREAM, class T>
void swiglu_backward_range(const T* grad, const T* gate, const T* up, T* grad_gate, T* grad_up, int64_t values) {
  const int64_t whole = values / BLOCK * BLOCK, rest = values - whole;
  for (int64_t i = 0; i < whole; i += BLOCK) {
    swiglu_backward_block<IS_STREAM>(grad + i, gate + i, up + i, grad_gate + i, grad_up + i);
  }
  if (rest != 0) {
    T d[BLOCK] = {}, g[BLOCK] = {}, u[BLOCK] = {}, of_gate[BLOCK], of_up[BLOCK];
    copy_values(d, grad + whole, rest);
    copy_values(g, gate + whole, rest);
    copy_values(u, up + whole, rest);
    swiglu_backward_block<false>(d, g, u, of_gate, of_up);
    copy_values(grad_gate + whole, of_gate, rest);
    copy_values(grad_up + whole, of_up, rest);
  }
  if (IS_STREAM) fence();
}

template <class T>
void swiglu(const void* gate, const void* up, void* out, int64_t values, bool stream) {
  const auto run = stream && is_aligned(out) ? swiglu_range<true, T> : swiglu_range<false, T>;
  run(static_cast<const T*>(gate), static_cast<const T*>(up), static_cast<T*>(out), values);
}

template <class T>
void swiglu_backward(
    const void* grad, const void* gate, const void* up, void* grad_gate, void* grad_up, int64_t values, bool stream) {
  const bool is_stream = stream && is_aligned(grad_gate) && is_aligned(grad_up);
  const auto run = is_stream ? swiglu_backward_range<true, T> : swiglu_backward_range<false, T>;
  run(static_cast<const T*>(grad), static_cast<const T*>(gate), static_cast<const T*>(up), static_cast<T*>(grad_gate),
      static_cast<T*>(grad_up), values);
}

}  // namespace
