// A matrix product in float, for AVX-512: panels of both sides are copied to where they can be read one after the other, and a tile of
// the result stays in registers while they are (Goto and van de Geijn 2008). For the products of experts, which are many and of some hundred
// rows: at those sizes it comes to nine tenths of what the processor can add and multiply.
#pragma once

#include "math.inc.h"

namespace {

using p2pnode::Matrix;
using p2pnode::PRODUCT_COLUMNS;
using p2pnode::PRODUCT_INNER;

constexpr int64_t TILE_ROWS = 12, TILE_VECTORS = 2, TILE_COLUMNS = TILE_VECTORS * WIDTH;  // 24 of 32 registers

// to[k * pitch + lane] = from(lane, k) for the first `lanes` of WIDTH lanes, zeros in the others.
inline void pack(const float* from, int64_t lane_stride, int64_t inner_stride, int64_t lanes, int64_t inner, float* to, int64_t pitch) {
  int64_t k = 0;
  if (lane_stride == 1) {
    for (; k < inner; k++) store(to + k * pitch, load_some(from + k * inner_stride, lanes, 0.0f));
    return;
  }
  for (; inner_stride == 1 && k + WIDTH <= inner; k += WIDTH) {
    Floats rows[WIDTH];
    for (int64_t lane = 0; lane < WIDTH; lane++) rows[lane] = lane < lanes ? load(from + lane * lane_stride + k) : Floats(0.0f);
    transpose(rows);
    for (int64_t i = 0; i < WIDTH; i++) store(to + (k + i) * pitch, rows[i]);
  }
  for (; k < inner; k++) {
    for (int64_t lane = 0; lane < WIDTH; lane++) to[k * pitch + lane] = lane < lanes ? from[lane * lane_stride + k * inner_stride] : 0.0f;
  }
}

// out = a * b, or out + a * b, of packed panels: ROWS by TILE_COLUMNS values.
template <int ROWS>
void tile(const float* a, const float* b, int64_t inner, float* out, int64_t pitch, bool is_more) {
  Floats sums[ROWS][TILE_VECTORS];
#pragma GCC unroll 16
  for (int row = 0; row < ROWS; row++) {
    for (int v = 0; v < TILE_VECTORS; v++) sums[row][v] = 0.0f;
  }
  for (int64_t k = 0; k < inner; k++) {
    Floats columns[TILE_VECTORS];
    for (int v = 0; v < TILE_VECTORS; v++) columns[v] = load(b + k * TILE_COLUMNS + v * WIDTH);
#pragma GCC unroll 16
    for (int row = 0; row < ROWS; row++) {
      const Floats value = a[k * WIDTH + row];
      for (int v = 0; v < TILE_VECTORS; v++) sums[row][v] = multiply_add(value, columns[v], sums[row][v]);
    }
  }
#pragma GCC unroll 16
  for (int row = 0; row < ROWS; row++) {
    for (int v = 0; v < TILE_VECTORS; v++) {
      float* const to = out + row * pitch + v * WIDTH;
      store(to, is_more ? load(to) + sums[row][v] : sums[row][v]);
    }
  }
}

using Tile = void (*)(const float*, const float*, int64_t, float*, int64_t, bool);
constexpr Tile TILES[TILE_ROWS + 1] = {nullptr, tile<1>, tile<2>, tile<3>, tile<4>,  tile<5>,  tile<6>,
                                       tile<7>, tile<8>, tile<9>, tile<10>, tile<11>, tile<12>};

// A tile at the right edge, of fewer columns.
inline void edge(Tile run, const float* a, const float* b, int64_t inner, float* out, int64_t pitch, bool is_more, int64_t rows, int64_t columns) {
  float whole[TILE_ROWS * TILE_COLUMNS] = {};
  for (int64_t row = 0; is_more && row < rows; row++) copy_values(whole + row * TILE_COLUMNS, out + row * pitch, columns);
  run(a, b, inner, whole, TILE_COLUMNS, is_more);
  for (int64_t row = 0; row < rows; row++) copy_values(out + row * pitch, whole + row * TILE_COLUMNS, columns);
}

void product(Matrix a, Matrix b, float* out, int64_t rows, int64_t inner, int64_t columns, float* scratch) {
  if (rows == 0) return;
  if (inner == 0) memset(out, 0, static_cast<size_t>(rows * columns) * sizeof(float));
  float* const of_a = scratch + PRODUCT_COLUMNS * PRODUCT_INNER;
  for (int64_t left = 0; left < columns; left += PRODUCT_COLUMNS) {
    const int64_t right = left + PRODUCT_COLUMNS < columns ? left + PRODUCT_COLUMNS : columns;
    for (int64_t first = 0; first < inner; first += PRODUCT_INNER) {
      const int64_t depth = first + PRODUCT_INNER < inner ? PRODUCT_INNER : inner - first;
      for (int64_t column = left; column < right; column += WIDTH) {
        const int64_t panel = (column - left) / TILE_COLUMNS, within = (column - left) % TILE_COLUMNS;
        pack(b.values + first * b.row_stride + column * b.column_stride, b.column_stride, b.row_stride,
             right - column < WIDTH ? right - column : WIDTH, depth, scratch + panel * TILE_COLUMNS * depth + within, TILE_COLUMNS);
      }
      for (int64_t row = 0; row < rows; row += TILE_ROWS) {
        const int64_t count = row + TILE_ROWS < rows ? TILE_ROWS : rows - row;
        pack(a.values + row * a.row_stride + first * a.column_stride, a.row_stride, a.column_stride, count, depth, of_a, WIDTH);
        for (int64_t column = left; column < right; column += TILE_COLUMNS) {
          const float* const of_b = scratch + (column - left) * depth;
          float* const to = out + row * columns + column;
          if (right - column >= TILE_COLUMNS) {
            TILES[count](of_a, of_b, depth, to, columns, first != 0);
          } else {
            edge(TILES[count], of_a, of_b, depth, to, columns, first != 0, count, right - column);
          }
        }
      }
    }
  }
}

}  // namespace
