// Entropy decoding of baseline JPEG, in place of libjpeg-turbo's: the same coefficients sooner.
//
// libjpeg-turbo's own file is compiled here, from the very sources that the rest of it comes from, and one function is put
// before its `decode_mcu`. That function decodes what is plain: an MCU (the blocks of all components that belong together)
// of which every byte is there and every code is valid. Whatever else comes, it leaves libjpeg-turbo's state as it was and hands
// the MCU to its function, which writes the same coefficients again: so warnings, errors, restarts and ends are its own.
//
// What it does otherwise: eight bytes at once into the bit buffer where none of them is 0xff; a code and the bits of its
// coefficient by one look into a table where both fit into LOOK bits (most do), and several codes by one look where nobody
// wants the coefficients, as for an image of an eighth of its size; shifts of BMI2 where the CPU has them; bytes near the
// end, of which a thumbnail has no others, from a copy behind which nothing has to be looked out for.
// The linker takes this object for libjpeg-turbo's `jdhuff.o` because it comes first; a test holds it to that.
#define jinit_huff_decoder trawl_jinit_turbo
#include "jdhuff.c"
#undef jinit_huff_decoder

#include <stdint.h>
#include <string.h>

// Bits that one look decodes: nearly all of a photo's codes with their coefficients, in tables of 8 KiB that stay in the
// L1 cache.
#define LOOK 11

// An entry of a table for decoding, from its highest bit:
//   16  the coefficient, or 0 if code and coefficient are longer than LOOK, or the code is of none
//    8  the code's symbol: how many coefficients of 0 come first, and the coefficient's size in bits
//    8  bits in all; without a coefficient those of the code, or 0 if that alone is longer than LOOK
// An entry of a table for skipping, all 0 if not even one code is whole:
//    1  whether the block ends
//    7  how many coefficients are behind these codes, those of 0 with them
//    8  bits in all
typedef uint32_t entry;
#define ENTRY(value, symbol, bits) ((uint32_t)(value) << 16 | (uint32_t)(symbol) << 8 | (uint32_t)(bits))
#define VALUE(e) ((int32_t)(e) >> 16)
#define SYMBOL(e) ((int)((e) >> 8 & 0xff))
#define PASSED(e) ((int)((e) >> 8 & 0x7f))
#define END 0x8000u
#define BITS(e) ((int)((e) & 0xff))

// For the AC tables of an image. Live as long as the image, beside libjpeg-turbo's own tables.
typedef struct {
  entry ac[NUM_HUFF_TBLS][1 << LOOK];
  entry skip[NUM_HUFF_TBLS][1 << LOOK];
  boolean made[NUM_HUFF_TBLS], skip_made[NUM_HUFF_TBLS];
} looks;

// BUFSIZE is more than a block can take, each byte stuffed (64 * 31 bits, twice), with what `refill` looks at beyond it.
#define MOST_OF_MCU (BUFSIZE * D_MAX_BLOCKS_IN_MCU)
// What `refill` looks at in one go.
#define PADDING 16
// The last MCUs of a scan are libjpeg-turbo's. Bytes that no MCU needs, of which only a broken image has any, are found, and
// warned of, if they are not in the bit buffer yet at the end, and how far that is filled ahead depends on where it was
// filled before. Once both ways of filling it come to want bytes at the same bit they go on alike, which mostly takes a few
// dozen bytes.
#define LEFT_TO_TURBO 16

// A copy of the last bytes of a source that holds the whole image, as TurboJPEG's does, against the end of `bytes`. A
// marker that no image has is behind them, where `refill` stops.
typedef struct {
  const JOCTET *end;
  JOCTET bytes[MOST_OF_MCU + PADDING];
} tail;

// libjpeg-turbo's decoder with what is needed beside it.
typedef struct {
  huff_entropy_decoder turbo;
  looks looks;
  tail tail;
  // MCUs of this scan that were not asked for yet.
  int64_t left;
  boolean (*fast)(j_decompress_ptr, JBLOCKROW *);
} decoder;

GLOBAL(void) jinit_huff_decoder(j_decompress_ptr cinfo);

// Off on threads where a test compares with libjpeg-turbo's own way.
static _Thread_local int switched_off;

void trawl_jpeg_entropy_switch(int on) { switched_off = !on; }

// Whether libjpeg-turbo's other parts were linked to this file.
int trawl_jpeg_entropy_linked(void (*jinit)(j_decompress_ptr)) { return jinit == jinit_huff_decoder; }

static int extended(uint64_t bits, int size) {
  return (int)bits < 1 << (size - 1) ? (int)bits - (1 << size) + 1 : (int)bits;
}

static void make_look(entry *table, const JHUFF_TBL *codes) {
  memset(table, 0, sizeof(entry) << LOOK);
  uint32_t code = 0;
  int symbol = 0;
  for (int length = 1; length <= LOOK; length++, code <<= 1) {
    for (int i = 0; i < codes->bits[length]; i++, code++, symbol++) {
      int run_size = codes->huffval[symbol], size = run_size & 15, left = LOOK - length;
      entry *first = table + (code << left);
      for (uint32_t rest = 0; rest < 1u << left; rest++) {
        first[rest] = size == 0 || size > left
                          ? ENTRY(0, run_size, length)
                          : ENTRY((uint16_t)extended(rest >> (left - size), size), run_size, length + size);
      }
    }
  }
}

#define SIXTEEN_ZEROS 0xf0

// From a table for decoding. The bits of a run's last coefficient may lie behind those that are looked at.
static void make_skip(entry *skip, const entry *table) {
  for (uint32_t i = 0; i < 1u << LOOK; i++) {
    int used = 0, passed = 0;
    uint32_t end = 0;
    while (used < LOOK && !end) {
      entry e = table[i << used & ((1u << LOOK) - 1)];
      int symbol = SYMBOL(e), size = symbol & 15, bits = VALUE(e) ? BITS(e) : BITS(e) + size;
      int of_code = bits - size;
      if (!e || used + of_code > LOOK) break;
      used += bits;
      if (size || symbol == SIXTEEN_ZEROS) passed += (symbol >> 4) + 1;
      else end = END;
    }
    // More than a block's would be a broken image's, which is decoded code by code.
    skip[i] = passed < DCTSIZE2 ? end | (uint32_t)passed << 8 | (uint32_t)used : 0;
  }
}

// A bit buffer whose next bit is the highest. Below `count` bits it may hold the beginning of the next byte.
typedef struct {
  uint64_t bits;
  int count;
  const JOCTET *next;
} reader;

// At least 56 bits, or false before a marker. Reads up to 8 bytes from `next`, uses up to 16.
static inline __attribute__((always_inline)) int refill(reader *r) {
  uint64_t bytes;
  memcpy(&bytes, r->next, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
  bytes = __builtin_bswap64(bytes);
#endif
  // A byte of 0xff is a byte of 0 turned over: the usual test for one.
  uint64_t over = ~bytes;
  if (__builtin_expect(((over - 0x0101010101010101u) & ~over & 0x8080808080808080u) == 0, 1)) {
    r->bits |= bytes >> r->count;
    r->next += (63 - r->count) >> 3;
    r->count |= 56;
    return 1;
  }
  while (r->count <= 56) {
    JOCTET byte = *r->next;
    if (byte == 0xff && r->next[1] != 0) return 0;
    r->next += byte == 0xff ? 2 : 1;
    r->bits |= (uint64_t)byte << (56 - r->count);
    r->count += 8;
  }
  return 1;
}

// Longer than a code (16 bits at most) and its coefficient (15).
#define ENOUGH 32
#define FILL(r) if ((r).count < ENOUGH && !refill(&(r))) return FALSE
#define TOP(r, n) ((r).bits >> (64 - (n)))
#define DROP(r, n) ((r).bits <<= (n), (r).count -= (n))

// The symbol of a code of more than `length` bits, or -1.
static inline __attribute__((always_inline)) int long_code(reader *r, const d_derived_tbl *table, int length) {
  do {
    if (++length > 16) return -1;
  } while ((JLONG)TOP(*r, length) > table->maxcode[length]);
  int symbol = table->pub->huffval[(int)((JLONG)TOP(*r, length) + table->valoffset[length]) & 0xff];
  DROP(*r, length);
  return symbol;
}

// The source's next bytes, with as many behind them as an MCU and `refill` can want.
static const JOCTET *next_bytes(tail *tail, const struct jpeg_source_mgr *source, int blocks) {
  if (source->bytes_in_buffer >= BUFSIZE * (size_t)blocks) return source->next_input_byte;
  const JOCTET *end = source->next_input_byte + source->bytes_in_buffer;
  JOCTET *copy = tail->bytes + MOST_OF_MCU - source->bytes_in_buffer;
  if (tail->end != end) {
    memcpy(copy, source->next_input_byte, source->bytes_in_buffer);
    tail->end = end;
  }
  return copy;
}

static inline __attribute__((always_inline)) boolean blocks(j_decompress_ptr cinfo, JBLOCKROW *mcu) {
  decoder *all = (decoder *)cinfo->entropy;
  huff_entropy_decoder *turbo = &all->turbo;
  int had = turbo->bitstate.bits_left;
  const JOCTET *from = next_bytes(&all->tail, cinfo->src, cinfo->blocks_in_MCU);
  reader r = {had ? (uint64_t)turbo->bitstate.get_buffer << (64 - had) : 0, had, from};
  savable_state state = turbo->saved;

  for (int b = 0; b < cinfo->blocks_in_MCU; b++) {
    JCOEF *block = mcu && mcu[b] ? *mcu[b] : NULL;
    const d_derived_tbl *dc = turbo->dc_cur_tbls[b], *ac = turbo->ac_cur_tbls[b];
    FILL(r);
    int look = dc->lookup[TOP(r, HUFF_LOOKAHEAD)], length = look >> HUFF_LOOKAHEAD, size;
    if (length <= HUFF_LOOKAHEAD) {
      size = look & ((1 << HUFF_LOOKAHEAD) - 1);
      DROP(r, length);
    } else if ((size = long_code(&r, dc, HUFF_LOOKAHEAD)) < 0) {
      return FALSE;
    }
    // libjpeg-turbo has made sure that a DC size is 15 at most (16 in lossless images, which do not come here).
    int difference = 0;
    if (size) {
      difference = extended(TOP(r, size), size);
      DROP(r, size);
    }
    if (turbo->dc_needed[b]) {
      int *last = &state.last_dc_val[cinfo->MCU_membership[b]];
      *last = (int)((unsigned)*last + (unsigned)difference);
      if (block) block[0] = (JCOEF)*last;
    }

    int number = cinfo->cur_comp_info[cinfo->MCU_membership[b]]->ac_tbl_no;
    const entry *table = all->looks.ac[number], *skip = NULL;
    if (!block || !turbo->ac_needed[b]) {
      skip = all->looks.skip[number];
      if (!all->looks.skip_made[number]) make_skip(all->looks.skip[number], table);
      all->looks.skip_made[number] = TRUE;
      block = NULL;
    }
    for (int k = 1; k < DCTSIZE2; k++) {
      FILL(r);
      if (skip) {
        entry e = skip[TOP(r, LOOK)];
        // Nothing marks the end of a block that is full: what looks like it is the next block's.
        if (e && k + PASSED(e) < DCTSIZE2) {
          DROP(r, BITS(e));
          if (e & END) break;
          k += PASSED(e) - 1;
          continue;
        }
      }
      entry e = table[TOP(r, LOOK)];
      int symbol = SYMBOL(e), value = VALUE(e);
      if (__builtin_expect(value != 0, 1)) {
        DROP(r, BITS(e));
      } else {
        if (e) {
          DROP(r, BITS(e));
        } else if ((symbol = long_code(&r, ac, LOOK)) < 0) {
          return FALSE;
        }
        if ((size = symbol & 15)) {
          value = extended(TOP(r, size), size);
          DROP(r, size);
        } else if (symbol != SIXTEEN_ZEROS) {
          break;
        }
      }
      k += symbol >> 4;
      // A broken image may go beyond 63: the table of places has 16 more for that.
      if (block && value) block[jpeg_natural_order[k]] = (JCOEF)value;
    }
  }

  cinfo->src->bytes_in_buffer -= (size_t)(r.next - from);
  cinfo->src->next_input_byte += r.next - from;
  turbo->bitstate.get_buffer = r.count ? (bit_buf_type)(r.bits >> (64 - r.count)) : 0;
  turbo->bitstate.bits_left = r.count;
  turbo->saved = state;
  return TRUE;
}

static boolean blocks_anywhere(j_decompress_ptr cinfo, JBLOCKROW *mcu) { return blocks(cinfo, mcu); }

#ifdef __x86_64__
__attribute__((target("bmi,bmi2"))) static boolean blocks_bmi2(j_decompress_ptr cinfo, JBLOCKROW *mcu) {
  return blocks(cinfo, mcu);
}
#endif

static boolean decode_mcu_fast_or_turbo(j_decompress_ptr cinfo, JBLOCKROW *mcu) {
  decoder *all = (decoder *)cinfo->entropy;
  huff_entropy_decoder *turbo = &all->turbo;
  boolean plain = all->left-- > LEFT_TO_TURBO && (!cinfo->restart_interval || turbo->restarts_to_go) &&
                  !cinfo->unread_marker && !turbo->pub.insufficient_data;
  if (!plain || !all->fast(cinfo, mcu)) return decode_mcu(cinfo, mcu);
  if (cinfo->restart_interval) turbo->restarts_to_go--;
  return TRUE;
}

static void start_pass(j_decompress_ptr cinfo) {
  start_pass_huff_decoder(cinfo);
  decoder *all = (decoder *)cinfo->entropy;
  all->left = (int64_t)cinfo->MCUs_per_row * cinfo->MCU_rows_in_scan;
  memset(all->looks.made, 0, sizeof all->looks.made);
  memset(all->looks.skip_made, 0, sizeof all->looks.skip_made);
  for (int c = 0; c < cinfo->comps_in_scan; c++) {
    int number = cinfo->cur_comp_info[c]->ac_tbl_no;
    if (!all->looks.made[number]) make_look(all->looks.ac[number], all->turbo.ac_derived_tbls[number]->pub);
    all->looks.made[number] = TRUE;
  }
}

// Called by libjpeg-turbo for each baseline image.
GLOBAL(void) jinit_huff_decoder(j_decompress_ptr cinfo) {
  trawl_jinit_turbo(cinfo);
  if (switched_off) return;
  decoder *all = (decoder *)cinfo->mem->alloc_small((j_common_ptr)cinfo, JPOOL_IMAGE, sizeof(decoder));
  memcpy(&all->turbo, cinfo->entropy, sizeof all->turbo);
  cinfo->entropy = &all->turbo.pub;
  all->turbo.pub.start_pass = start_pass;
  all->turbo.pub.decode_mcu = decode_mcu_fast_or_turbo;
  all->tail.end = NULL;
  memset(all->tail.bytes + MOST_OF_MCU, 0xff, PADDING);
  all->fast = blocks_anywhere;
#ifdef __x86_64__
  if (__builtin_cpu_supports("bmi2") && __builtin_cpu_supports("bmi")) all->fast = blocks_bmi2;
#endif
}
