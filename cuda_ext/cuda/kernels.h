// The CUDA kernels as bind.cpp calls them: raw pointers on the current device, shapes, a stream. What it is not: checks of tensors, memory,
// gradients; bind.cpp and ops.py have those. For editors: every function only queues work, and queues none where there is none to do.
//
// T tokens, E experts, k of them for each token, D values a token; a pair is token * k + slot. All arrays are dense, rows last to first.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

namespace p2pnode {

enum class Type { f32, bf16, f16 };
enum class Score { softmax, sigmoid };

// Why the current device, with its driver, cannot run the kernels, in CUDA's words; empty if it can.
const char* problem_here();

// Where one half of a packed tensor ends, the other begins: `rows` times `columns` values, `stride` from row to row of gate and of up.
struct Halves {
  int64_t rows, columns, stride;
};

void swiglu(Type, const void* gate, const void* up, void* out, Halves, cudaStream_t);
void swiglu_backward(Type, const void* grad, const void* gate, const void* up, void* grad_gate, void* grad_up, Halves, cudaStream_t);

struct Routing {
  int64_t tokens;
  int experts, k;
  bool renorm;
  Score score;
};

// counts: (E,), any content.
void route(Type, const void* logits, float* weights, int* indices, int* counts, float* lse, Routing, cudaStream_t);
// grad_lse may be null.
void route_backward(
    Type, const float* grad_weights, const float* grad_lse, const void* logits, const int* indices, const float* weights, const float* lse,
    void* grad, Routing, cudaStream_t);

// How many ints of scratch memory a plan needs.
int64_t plan_scratch(int64_t pairs, int experts);
void plan(const int* indices, int64_t pairs, int experts, int align, int* scratch, int* perm, int* inverse, int* ends, cudaStream_t);
// inverse: (pairs,), from a plan's perm: (rows,).
void invert(const int* perm, int64_t rows, int64_t pairs, int* inverse, cudaStream_t);

// x: (tokens, D), perm and out: (rows, D).
void permute(Type, const void* x, const int* perm, void* out, int64_t tokens, int k, int64_t rows, int64_t columns, cudaStream_t);
// y: (rows, D), inverse and weights: (tokens * k,), out: (tokens, D). Without weights each is one.
void combine(
    Type, const void* y, const int* inverse, const float* weights, void* out, int64_t tokens, int k, int64_t rows, int64_t columns,
    cudaStream_t);
// grad: (tokens, D), grad_y: (rows, D), of which only the rows in `inverse` are written.
void combine_backward(
    Type, const void* grad, const void* y, const int* inverse, const float* weights, void* grad_y, float* grad_weights, int64_t tokens,
    int k, int64_t rows, int64_t columns, cudaStream_t);

// How many floats of scratch memory the loss needs.
int64_t aux_loss_scratch(int64_t tokens);
void aux_loss(
    Type, const void* logits, const float* lse, const int* counts, int k, int64_t tokens, int experts, float* scratch, float* loss,
    cudaStream_t);
void aux_loss_backward(
    Type, const float* grad_loss, const void* logits, const float* lse, const int* counts, int k, int64_t tokens, int experts, void* grad,
    cudaStream_t);

}  // namespace p2pnode
