// ldmatrix and mma.sync: the lane that arrives last gathers the fragments of all 32, computes, and scatters
// the results.
//
// Lane maps: PTX ISA, "Warp-level matrix load instruction: ldmatrix" and "Matrix Fragments for mma.m16n8k16
// with floating point type". In both, lane l owns row l/4 of an 8x8 tile and there the pair of columns
// 2*(l%4), 2*(l%4)+1: one 32-bit word of two 16-bit elements, the lower half being the lower column.
#include <cstring>

#include "turns.h"

namespace {

void require_full_warp(Worker& worker, uint32_t lanes, const char* name) {
  if (lanes == kFullWarp) return;
  char text[128];
  write_text(text, sizeof(text), "%s needs all 32 lanes of the warp; lanes 0x%08x are there", name, lanes);
  worker.fail("incomplete warp", *this_fiber(), this_fiber()->place, text);
}

// ---- ldmatrix ---------------------------------------------------------------------------------------------

struct LoadMatrix {
  uint16_t row[8];  // what this lane's address points to
  uint32_t* fragments;
  int count;
  bool transposed;
};

uint32_t pack(uint16_t low, uint16_t high) { return static_cast<uint32_t>(high) << 16 | low; }

void compute_ldmatrix(Worker& worker, void* const* requests, uint32_t lanes) {
  require_full_warp(worker, lanes, "ldmatrix");
  const auto request = [&](unsigned lane) -> const LoadMatrix& {
    return *static_cast<LoadMatrix*>(requests[lane]);
  };
  const bool transposed = request(0).transposed;
  for (unsigned lane = 0; lane < kWarpLanes; ++lane) {
    const unsigned row = lane / 4, column = lane % 4 * 2;
    for (int j = 0; j < request(0).count; ++j) {
      const unsigned first = 8 * j;  // the lane that brought row 0 of matrix j
      request(lane).fragments[j] =
          transposed ? pack(request(first + column).row[row], request(first + column + 1).row[row])
                     : pack(request(first + row).row[column], request(first + row).row[column + 1]);
    }
  }
}

const Collective kLoadMatrix = {"ldmatrix", true, compute_ldmatrix};

// ---- mma.m16n8k16 -----------------------------------------------------------------------------------------

// Vector types of GCC and clang: a row of 8 elements, however wide the processor's registers are.
using Float8 = float __attribute__((vector_size(32)));
using Word8 = uint32_t __attribute__((vector_size(32)));

struct MatrixMultiply {
  float* d;
  const uint32_t* a;
  const uint32_t* b;
  const float* c;
};

float low_bf16(uint32_t pair) { return __builtin_bit_cast(float, pair << 16); }
float high_bf16(uint32_t pair) { return __builtin_bit_cast(float, pair & 0xffff0000u); }

struct alignas(64) Tiles {
  uint32_t a[16][8];  // A[row][2k], A[row][2k+1] in one word
  Word8 b[8];         // B[2k][column], B[2k+1][column] in one word
  Float8 d[16];       // first C, then D
};

void gather(Tiles& tiles, const MatrixMultiply& request, unsigned row, unsigned pair) {
  tiles.a[row][pair] = request.a[0];
  tiles.a[row + 8][pair] = request.a[1];
  tiles.a[row][pair + 4] = request.a[2];
  tiles.a[row + 8][pair + 4] = request.a[3];
  tiles.b[pair][row] = request.b[0];
  tiles.b[pair + 4][row] = request.b[1];
  float* d = reinterpret_cast<float*>(tiles.d);
  memcpy(d + row * 8 + pair * 2, request.c, 8);
  memcpy(d + (row + 8) * 8 + pair * 2, request.c + 2, 8);
}

void scatter(const Tiles& tiles, const MatrixMultiply& request, unsigned row, unsigned pair) {
  const float* d = reinterpret_cast<const float*>(tiles.d);
  memcpy(request.d, d + row * 8 + pair * 2, 8);
  memcpy(request.d + 2, d + (row + 8) * 8 + pair * 2, 8);
}

// A product of two bf16 is exact in float32, so the only roundings are those of the 16 additions, taken in
// order of k.
void multiply(Tiles& tiles) {
  for (unsigned k = 0; k < 8; ++k) {
    const Float8 b_low = reinterpret_cast<Float8>(tiles.b[k] << 16);
    const Float8 b_high = reinterpret_cast<Float8>(tiles.b[k] & 0xffff0000u);
    for (unsigned row = 0; row < 16; ++row) {
      tiles.d[row] += low_bf16(tiles.a[row][k]) * b_low;
      tiles.d[row] += high_bf16(tiles.a[row][k]) * b_high;
    }
  }
}

void compute_mma(Worker& worker, void* const* requests, uint32_t lanes) {
  require_full_warp(worker, lanes, "mma");
  Tiles tiles;
  for (unsigned lane = 0; lane < kWarpLanes; ++lane) {
    gather(tiles, *static_cast<MatrixMultiply*>(requests[lane]), lane / 4, lane % 4);
  }
  multiply(tiles);
  for (unsigned lane = 0; lane < kWarpLanes; ++lane) {
    scatter(tiles, *static_cast<MatrixMultiply*>(requests[lane]), lane / 4, lane % 4);
  }
}

const Collective kMatrixMultiply = {"mma", true, compute_mma};

}  // namespace

void simt_ldmatrix(uint32_t* fragments, const void* row, int count, bool transposed, simt::Place place) {
  Fiber* self = this_fiber();
  LoadMatrix request = {{}, fragments, count, transposed};
  if (self->lane < 8u * static_cast<unsigned>(count)) {  // the other lanes' addresses are not used
    if (Checks* checks = worker_of(*self).checks) {
      checks->load_matrix_row(*self, row, sizeof(request.row), __builtin_return_address(0));
    }
    if (reinterpret_cast<uintptr_t>(row) % 16) {
      worker_of(*self).fail("misaligned address", *self, place,
                            "ldmatrix needs a row's address to be a multiple of 16");
    }
    self->place = place;
    memcpy(request.row, row, sizeof(request.row));
  }
  worker_of(*self).meet(self, kFullWarp, kLoadMatrix, &request, place);
}

void simt_mma_m16n8k16_bf16(float* d, const uint32_t* a, const uint32_t* b, const float* c,
                            simt::Place place) {
  Fiber* self = this_fiber();
  MatrixMultiply request = {d, a, b, c};
  worker_of(*self).meet(self, kFullWarp, kMatrixMultiply, &request, place);
}
