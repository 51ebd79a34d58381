// The CPU kernels as bind.cpp calls them: one table of functions for each instruction set. Raw pointers, shapes, no torch.
//
// All arrays are dense, rows last to first. Values are float or bfloat16 (as uint16_t) and are computed in float; every index into an array
// is an int64_t. A function does a range of tokens (or of values) alone, and gives the same bits however the ranges are cut. `stream` writes
// past the caches, for results that would not stay there anyway.
//
// T tokens, E experts, k of them for each token, D values a token; a pair is token * k + slot.
#pragma once

#include <stdint.h>

namespace p2pnode {

struct Routing {
  int64_t experts, k;
  bool renorm, is_sigmoid;
};

// The kernels of one element type. `scratch` holds scratch_floats(experts, k) floats.
struct Typed {
  void (*swiglu)(const void* gate, const void* up, void* out, int64_t values, bool stream);
  void (*swiglu_backward)(
      const void* grad, const void* gate, const void* up, void* grad_gate, void* grad_up, int64_t values, bool stream);
  // counts are added to.
  void (*route)(
      const void* logits, int64_t tokens, Routing, float* weights, int32_t* indices, int32_t* counts, float* lse, float* scratch);
  // grad_lse may be null.
  void (*route_backward)(
      const float* grad_weights, const float* grad_lse, const void* logits, const int32_t* indices, const float* weights,
      const float* lse, int64_t tokens, Routing, void* grad, float* scratch);
  // out[token] = sum of y[inverse[pair]] * weights[pair]; without weights each is one.
  void (*combine)(
      const void* y, const int32_t* inverse, const float* weights, void* out, int64_t tokens, int64_t k, int64_t width, bool stream);
  void (*combine_backward)(
      const void* grad, const void* y, const int32_t* inverse, const float* weights, void* grad_y, float* grad_weights, int64_t tokens,
      int64_t k, int64_t width, bool stream);
  // Adds each token's probabilities to sums, (experts).
  void (*probabilities)(const void* logits, const float* lse, int64_t tokens, int64_t experts, float* sums, float* scratch);
  // fractions are padded with zeros to padded(experts).
  void (*aux_loss_backward)(
      const void* logits, const float* lse, const float* fractions, float scale, int64_t tokens, int64_t experts, void* grad,
      float* scratch);
};

// One of the strides is one.
struct Matrix {
  const float* values;
  int64_t row_stride, column_stride;
};

// What `product` goes through at a time, so that it stays in a core's second cache.
constexpr int64_t PRODUCT_COLUMNS = 512, PRODUCT_INNER = 192, PRODUCT_FLOATS = (PRODUCT_COLUMNS + 16) * PRODUCT_INNER;

struct Kernels {
  const char* name;
  Typed f32, bf16;
  // out[inverse[pair]] = x[token], rows of so many bytes.
  void (*permute)(const void* x, const int32_t* inverse, void* out, int64_t tokens, int64_t k, int64_t bytes, bool stream);
  // out (rows, columns) = a (rows, inner) * b (inner, columns); `scratch` holds PRODUCT_FLOATS floats. Null: torch's own is the faster.
  void (*product)(Matrix a, Matrix b, float* out, int64_t rows, int64_t inner, int64_t columns, float* scratch);
};

extern const Kernels scalar;
#if defined(__x86_64__)
extern const Kernels avx2, avx512, avx512bf16;
#endif

constexpr int64_t PAD = 64;  // a multiple of the values that any instruction set takes at a time

// Static: an inline function would be one for all instruction sets.
static constexpr int64_t padded(int64_t count) { return (count + PAD - 1) / PAD * PAD; }

static constexpr int64_t scratch_floats(int64_t experts, int64_t k) { return 2 * padded(experts) + 2 * padded(k); }

}  // namespace p2pnode
