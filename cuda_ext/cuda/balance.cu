// The load-balancing loss of a router and its gradient. A warp has a token.
//
// With c the counts of the experts and p a token's probabilities, q = sum over e of c[e] * p[e], the loss is the sum of q over the tokens times
// E * k / (T * sum of c), and its gradient p[e] * (c[e] - q) times the same.
//
// Roofline: 8192 tokens of 128 experts in bf16 are 2 MB read, and 2 MB written backward: bound by the launches, two forward, one backward.
#include "common.cuh"

namespace p2pnode {
namespace {

constexpr int BLOCKS_MAX = 512;  // as many partial sums as one block adds up in two steps a thread

int64_t blocks_of(int64_t tokens) { return std::min<int64_t>(ceil_div(tokens, WARPS), BLOCKS_MAX); }

// For all threads of a block, always in the same order.
template <class Number>
__device__ __forceinline__ Number block_sum(Number x) {
  __shared__ Number warp_sums[WARPS];
#pragma unroll
  for (int distance = WARP / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(ALL_LANES, x, distance);
  if (lane() == 0) warp_sums[threadIdx.x / WARP] = x;
  __syncthreads();
  Number sum = 0;
#pragma unroll
  for (int warp = 0; warp < WARPS; ++warp) sum += warp_sums[warp];
  __syncthreads();  // before the next call writes
  return sum;
}

// E * k / (T * sum of counts), once for the whole block.
__device__ __forceinline__ float scale_of(const int* counts, int k, int64_t tokens, int experts) {
  long long total = 0;
  for (int expert = threadIdx.x; expert < experts; expert += THREADS) total += counts[expert];
  total = block_sum(total);
  return static_cast<float>(experts) * k / (static_cast<float>(max(tokens, int64_t{1})) * static_cast<float>(max(total, 1ll)));
}

// q, for all lanes of the token's warp.
template <class T, int N>
__device__ __forceinline__ float expected_count(const T* logits, float lse, const int* counts, int experts) {
  float sum = 0.0f;
  for (int at = lane() * N; at < experts; at += WARP * N) {
    float values[N];
    unpack<T, N>(load<T, N>(logits + at), values);
#pragma unroll
    for (int j = 0; j < N; ++j) sum += static_cast<float>(counts[at + j]) * expf(values[j] - lse);
  }
  return warp_sum(sum);
}

template <class T, int N>
__global__ void __launch_bounds__(THREADS) aux_loss_kernel(
    const T* __restrict__ logits, const float* __restrict__ lse, const int* __restrict__ counts, int64_t tokens, int experts,
    float* __restrict__ partial) {
  float sum = 0.0f;
  for (int64_t token = static_cast<int64_t>(blockIdx.x) * WARPS + threadIdx.x / WARP; token < tokens;
       token += static_cast<int64_t>(gridDim.x) * WARPS)
    sum += expected_count<T, N>(logits + token * experts, lse[token], counts, experts);
  sum = block_sum(lane() == 0 ? sum : 0.0f);
  if (threadIdx.x == 0) partial[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(THREADS)
    aux_loss_sum_kernel(const float* __restrict__ partial, int64_t partials, const int* counts, int k, int64_t tokens, int experts, float* loss) {
  float sum = 0.0f;
  for (int64_t i = threadIdx.x; i < partials; i += THREADS) sum += partial[i];
  sum = block_sum(sum);
  const float scale = scale_of(counts, k, tokens, experts);
  if (threadIdx.x == 0) *loss = scale * sum;
}

template <class T, int N>
__global__ void __launch_bounds__(THREADS) aux_loss_backward_kernel(
    const float* __restrict__ grad_loss, const T* __restrict__ logits, const float* __restrict__ lse, const int* __restrict__ counts, int k,
    int64_t tokens, int experts, T* __restrict__ grad) {
  const float scale = *grad_loss * scale_of(counts, k, tokens, experts);
  const int64_t token = static_cast<int64_t>(blockIdx.x) * WARPS + threadIdx.x / WARP;
  if (token >= tokens) return;
  logits += token * experts, grad += token * experts;
  const float log_sum = lse[token], expected = expected_count<T, N>(logits, log_sum, counts, experts);
  for (int at = lane() * N; at < experts; at += WARP * N) {
    float values[N];
    unpack<T, N>(load<T, N>(logits + at), values);
#pragma unroll
    for (int j = 0; j < N; ++j) values[j] = scale * expf(values[j] - log_sum) * (static_cast<float>(counts[at + j]) - expected);
    store<T, N>(grad + at, pack<T, N>(values));
  }
}

}  // namespace

int64_t aux_loss_scratch(int64_t tokens) { return blocks_of(tokens); }

void aux_loss(
    Type type, const void* logits, const float* lse, const int* counts, int k, int64_t tokens, int experts, float* scratch, float* loss,
    cudaStream_t stream) {
  const int64_t blocks = blocks_of(tokens);
  with_type(type, [&](auto value) {
    using T = decltype(value);
    const auto run = [&](auto kernel) {
      launch(kernel, blocks, THREADS, stream, static_cast<const T*>(logits), lse, counts, tokens, experts, scratch);
    };
    packs_fit<T>(experts, logits) ? run(aux_loss_kernel<T, WIDTH<T>>) : run(aux_loss_kernel<T, 1>);
  });
  launch(aux_loss_sum_kernel, 1, THREADS, stream, scratch, blocks, counts, k, tokens, experts, loss);
}

void aux_loss_backward(
    Type type, const float* grad_loss, const void* logits, const float* lse, const int* counts, int k, int64_t tokens, int experts, void* grad,
    cudaStream_t stream) {
  with_type(type, [&](auto value) {
    using T = decltype(value);
    const auto run = [&](auto kernel) {
      launch(
          kernel, ceil_div(tokens, WARPS), THREADS, stream, grad_loss, static_cast<const T*>(logits), lse, counts, k, tokens, experts,
          static_cast<T*>(grad));
    };
    packs_fit<T>(experts, logits, grad) ? run(aux_loss_backward_kernel<T, WIDTH<T>>) : run(aux_loss_backward_kernel<T, 1>);
  });
}

}  // namespace p2pnode
