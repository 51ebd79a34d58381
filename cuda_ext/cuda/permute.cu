// Tokens to the rows of their experts and back: copies and sums of whole rows. All three are bound by memory.
//
// Roofline for T tokens of D values of b bytes, k rows each, on an H200 (4.3 TB/s as torch copies); T8192 k8 D2048 in bf16 in brackets:
//   permute           writes kTDb, reads TDb: a token's k rows follow one another in no order, but x stays in the second cache (70 us)
//   combine           reads kTDb, writes TDb, in rows of Db bytes wherever they lie (70 us)
//   combine_backward  reads kTDb and TDb, writes kTDb (135 us)
// A thread asks for 64 bytes and more at once before it uses any. Nothing is added up by two threads but a warp's sum, in one order.
#include "common.cuh"

namespace p2pnode {
namespace {

constexpr int EACH = 2;
constexpr int AT_ONCE = 4;

// A row that stands in no tensor would be read or written outside of it; torch's own kernels stop at a wrong index, too.
__device__ __forceinline__ int64_t inside(int64_t row, int64_t rows) {
  if (static_cast<uint64_t>(row) >= static_cast<uint64_t>(rows)) __trap();
  return row;
}

template <class T, int N>
__global__ void __launch_bounds__(THREADS)
    permute_kernel(Grid grid, const T* __restrict__ x, const int* __restrict__ perm, T* __restrict__ out, int64_t tokens, int k) {
  const int64_t row = grid_row(grid), first = grid_pack<EACH>(grid);
  if (row >= grid.rows) return;
  const int pair = load<int, 1>(perm + row);
  const T* source = pair < 0 ? nullptr : x + inside(pair / k, tokens) * grid.packs * N;
  out += row * grid.packs * N;
  Pack<T, N> packs[EACH] = {};
#pragma unroll
  for (int i = 0; i < EACH; ++i) {
    const int64_t at = first + i * blockDim.x;
    if (source && at < grid.packs) packs[i] = load<T, N>(source + at * N);
  }
#pragma unroll
  for (int i = 0; i < EACH; ++i) {
    const int64_t at = first + i * blockDim.x;
    if (at < grid.packs) store<T, N>(out + at * N, packs[i]);
  }
}

// out[t] = sum over slots j, from the first to the last, of weights[t, j] * y[inverse[t, j]].
template <class T, int N>
__global__ void __launch_bounds__(THREADS) combine_kernel(
    Grid grid, const T* __restrict__ y, const int* __restrict__ inverse, const float* __restrict__ weights, T* __restrict__ out, int k,
    int64_t rows) {
  const int64_t token = grid_row(grid), at = grid_pack<1>(grid);
  if (token >= grid.rows || at >= grid.packs) return;
  y += at * N;
  const int64_t pair = token * k;
  float sum[N] = {};
  for (int begin = 0; begin < k; begin += AT_ONCE) {
    int row[AT_ONCE] = {};
    float weight[AT_ONCE] = {};
    Pack<T, N> packs[AT_ONCE] = {};
#pragma unroll
    for (int j = 0; j < AT_ONCE; ++j) {
      if (begin + j >= k) continue;
      row[j] = inverse[pair + begin + j];
      weight[j] = weights ? weights[pair + begin + j] : 1.0f;
    }
#pragma unroll
    for (int j = 0; j < AT_ONCE; ++j)
      if (begin + j < k) packs[j] = load<T, N>(y + inside(row[j], rows) * grid.packs * N);
#pragma unroll
    for (int j = 0; j < AT_ONCE; ++j) {
      if (begin + j >= k) continue;
      float values[N];
      unpack<T, N>(packs[j], values);
#pragma unroll
      for (int n = 0; n < N; ++n) sum[n] += weight[j] * values[n];
    }
  }
  store<T, N>(out + (token * grid.packs + at) * N, pack<T, N>(sum));
}

// A warp has a pair. The k pairs of a token are neighbours, so that its gradient is read from memory once and from the first cache k - 1 times.
template <class T, int N>
__global__ void __launch_bounds__(THREADS) combine_backward_kernel(
    const T* __restrict__ grad, const T* __restrict__ y, const int* __restrict__ inverse, const float* __restrict__ weights,
    T* __restrict__ grad_y, float* __restrict__ grad_weights, unsigned pairs, unsigned k, int64_t rows, int64_t columns) {
  const unsigned pair = blockIdx.x * WARPS + threadIdx.x / WARP;
  if (pair >= pairs) return;
  const int64_t row = inside(inverse[pair], rows) * columns;
  grad += static_cast<int64_t>(pair / k) * columns, y += row, grad_y += row;
  const float weight = weights[pair];
  float product = 0.0f;
  for (int64_t begin = lane() * N; begin < columns; begin += WARP * N * EACH) {
    Pack<T, N> grads[EACH] = {}, ys[EACH] = {};
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      const int64_t at = begin + i * WARP * N;
      if (at < columns) grads[i] = load<T, N>(grad + at), ys[i] = load<T, N>(y + at);
    }
#pragma unroll
    for (int i = 0; i < EACH; ++i) {
      const int64_t at = begin + i * WARP * N;
      if (at >= columns) continue;
      float g[N], values[N];
      unpack<T, N>(grads[i], g), unpack<T, N>(ys[i], values);
#pragma unroll
      for (int n = 0; n < N; ++n) {
        product += g[n] * values[n];
        g[n] *= weight;
      }
      store<T, N>(grad_y + at, pack<T, N>(g));
    }
  }
  product = warp_sum(product);
  if (lane() == 0) grad_weights[pair] = product;
}

}  // namespace

void permute(Type type, const void* x, const int* perm, void* out, int64_t tokens, int k, int64_t rows, int64_t columns, cudaStream_t stream) {
  with_type(type, [&](auto value) {
    using T = decltype(value);
    const auto run = [&](auto kernel, int64_t packs) {
      launch_rows<EACH>(kernel, rows, packs, stream, static_cast<const T*>(x), perm, static_cast<T*>(out), tokens, k);
    };
    packs_fit<T>(columns, x, out) ? run(permute_kernel<T, WIDTH<T>>, columns / WIDTH<T>) : run(permute_kernel<T, 1>, columns);
  });
}

void combine(
    Type type, const void* y, const int* inverse, const float* weights, void* out, int64_t tokens, int k, int64_t rows, int64_t columns,
    cudaStream_t stream) {
  with_type(type, [&](auto value) {
    using T = decltype(value);
    const auto run = [&](auto kernel, int64_t packs) {
      launch_rows<1>(kernel, tokens, packs, stream, static_cast<const T*>(y), inverse, weights, static_cast<T*>(out), k, rows);
    };
    packs_fit<T>(columns, y, out) ? run(combine_kernel<T, WIDTH<T>>, columns / WIDTH<T>) : run(combine_kernel<T, 1>, columns);
  });
}

void combine_backward(
    Type type, const void* grad, const void* y, const int* inverse, const float* weights, void* grad_y, float* grad_weights, int64_t tokens,
    int k, int64_t rows, int64_t columns, cudaStream_t stream) {
  with_type(type, [&](auto value) {
    using T = decltype(value);
    const auto run = [&](auto kernel) {
      launch(
          kernel, ceil_div(tokens * k, WARPS), THREADS, stream, static_cast<const T*>(grad), static_cast<const T*>(y), inverse, weights,
          static_cast<T*>(grad_y), grad_weights, tokens * k, k, rows, columns);
    };
    packs_fit<T>(columns, grad, y, grad_y) ? run(combine_backward_kernel<T, WIDTH<T>>) : run(combine_backward_kernel<T, 1>);
  });
}

}  // namespace p2pnode
