/* A weighted sum of stored tensors in one pass: out = base + w1 (v1 - f1) + w2 (v2 - f2) + ..., in double precision, a
 * product and then a sum each, in order, rounded once to the stored type. The bits are those of exact_sum.py and
 * encode.py, which say what they mean; compile with -ffp-contract=off, as a fused multiply-add would change them.
 *
 * Tiles of the sum stay in the first cache; every loop is over one tile and one term, so that compilers vectorise it.
 */
#define _FILE_OFFSET_BITS 64
#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>
#include <unistd.h>

#define TILE 512
#define MOST_LEAVES 64

/* GCC and Clang make a version of each function for every kind of processor, and choose when it is loaded. */
#if defined(SURGEON_CLONES)
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "avx2", "default")))
#else
#define FOR_EACH_CPU
#endif

enum { BF16 = 0, F32 = 1 };

/* The digest of this file when it was compiled. */
const char *surgeon_fused_sum_source(void) { return SURGEON_SOURCE; }

static inline float as_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline uint32_t as_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

FOR_EACH_CPU
static void decode(double *restrict to, const void *restrict from, int type, size_t start, size_t count) {
    if (type == BF16) {
        const uint16_t *restrict values = (const uint16_t *)from + start;
        for (size_t i = 0; i < count; i++) to[i] = as_float((uint32_t)values[i] << 16);
    } else {
        const float *restrict values = (const float *)from + start;
        for (size_t i = 0; i < count; i++) to[i] = values[i];
    }
}

FOR_EACH_CPU
static void add_term(double *restrict total, const double *restrict so_far, double *restrict values,
                     const double *restrict first, double weight, size_t count) {
    if (first)
        for (size_t i = 0; i < count; i++) values[i] = values[i] - first[i];
    if (weight != 1.0)
        for (size_t i = 0; i < count; i++) values[i] = values[i] * weight;
    if (so_far == total) /* by one name, as the other one promises to be apart */
        for (size_t i = 0; i < count; i++) total[i] = total[i] + values[i];
    else if (so_far)
        for (size_t i = 0; i < count; i++) total[i] = so_far[i] + values[i];
    else
        memcpy(total, values, count * sizeof *total);
}

FOR_EACH_CPU
static void keep_signs_of_zero(double *restrict total, const double *restrict base, size_t count) {
    for (size_t i = 0; i < count; i++) total[i] = total[i] == 0.0 && base[i] == 0.0 ? base[i] : total[i];
}

/* To nearest, ties to even, by way of float: where that lands in the middle between two bfloat16 values and is not
 * exact, the double says which side it is on. */
FOR_EACH_CPU
static uint32_t to_bf16(uint16_t *restrict out, const double *restrict total, size_t count) {
    uint32_t infinite = 0;
    for (size_t i = 0; i < count; i++) {
        float single = (float)total[i];
        double back = (double)single;
        uint32_t bits = as_bits(single);
        uint32_t even = 0x7fff + ((bits >> 16) & 1);
        uint32_t sided = fabs(total[i]) > fabs(back) ? 0x8000 : 0x7fff;
        uint32_t is_sided = ((bits & 0xffff) == 0x8000) & (back != total[i]);
        uint32_t rounded = (bits + (is_sided ? sided : even)) >> 16;
        infinite |= ((bits & 0x7f800000) == 0x7f800000) | ((rounded & 0x7f80) == 0x7f80);
        out[i] = (uint16_t)rounded;
    }
    return infinite;
}

FOR_EACH_CPU
static uint32_t to_f32(float *restrict out, const double *restrict total, size_t count) {
    uint32_t infinite = 0;
    for (size_t i = 0; i < count; i++) {
        out[i] = (float)total[i];
        infinite |= (as_bits(out[i]) & 0x7f800000) == 0x7f800000;
    }
    return infinite;
}

FOR_EACH_CPU
static void changed(float *restrict out, const double *restrict total, const double *restrict base, size_t count) {
    for (size_t i = 0; i < count; i++) out[i] = (float)(base ? total[i] - base[i] : total[i]);
}

/* A stored tensor: an open file, where the element that meets the output's first one lies, and its type. */
struct leaf {
    int32_t file;
    int32_t type;
    int64_t position;
};

/* weight x (values - first), numbers of leaves; -1: none, which for values means no change. */
struct term {
    int32_t values;
    int32_t first;
    double weight;
};

static const size_t SIZES[] = {2, 4};

static int read_all(int file, char *to, size_t size, int64_t position) {
    while (size) {
        ssize_t got = pread(file, to, size, (off_t)position);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return errno;
        if (got == 0) return ENODATA;
        to += got, position += got, size -= (size_t)got;
    }
    return 0;
}

static uint32_t sum_block(size_t count, void *out, int out_type, const struct leaf *leaves, char *const *held, int base,
                          size_t num_terms, const struct term *terms, int has_base, float *change) {
    double total[TILE], origin[TILE], product[TILE], first[TILE];
    uint32_t infinite = 0;
    for (size_t start = 0; start < count; start += TILE) {
        size_t n = count - start < TILE ? count - start : TILE;
        const double *so_far = has_base ? origin : NULL;
        if (base >= 0)
            decode(origin, held[base], leaves[base].type, start, n);
        else
            memset(origin, 0, sizeof origin);
        int begun = 0;
        for (const struct term *term = terms; term < terms + num_terms; term++) {
            if (term->values < 0) continue;
            const double *less = term->first < 0 ? NULL : term->first == base ? origin : first;
            decode(product, held[term->values], leaves[term->values].type, start, n);
            if (less == first) decode(first, held[term->first], leaves[term->first].type, start, n);
            add_term(total, so_far, product, less, term->weight, n);
            so_far = total;
            begun = 1;
        }
        if (!begun) memcpy(total, origin, n * sizeof *total);
        if (begun && base >= 0) keep_signs_of_zero(total, origin, n);
        if (out_type == BF16)
            infinite |= to_bf16((uint16_t *)out + start, total, n);
        else
            infinite |= to_f32((float *)out + start, total, n);
        if (change) changed(change + start, total, base < 0 ? NULL : origin, n);
    }
    return infinite;
}

/* `count` elements of the output; every leaf is read from its file, `block` elements at a time, into its part of
 * `scratch` (num_leaves x block x 4 bytes). change: null, or where (float)(total - base) goes. base: -1 for none; with
 * has_base it counts as zero. Returns 0, -1 where a stored value is not finite, or the errno of a read (ENODATA: the
 * file ends). */
int surgeon_fused_sum(size_t count, void *out, int out_type, size_t num_leaves, const struct leaf *leaves, int base,
                      size_t num_terms, const struct term *terms, int has_base, size_t block, char *scratch,
                      float *change) {
    char *held[MOST_LEAVES];
    uint32_t infinite = 0;
    for (size_t i = 0; i < num_leaves; i++) held[i] = scratch + i * block * 4;
    for (size_t start = 0; start < count; start += block) {
        size_t n = count - start < block ? count - start : block;
        for (size_t i = 0; i < num_leaves; i++) {
            size_t size = SIZES[leaves[i].type];
            int failed = read_all(leaves[i].file, held[i], n * size, leaves[i].position + (int64_t)(start * size));
            if (failed) return failed;
        }
        infinite |= sum_block(n, (char *)out + start * SIZES[out_type], out_type, leaves, held, base, num_terms, terms,
                              has_base, change ? change + start : NULL);
    }
    return infinite ? -1 : 0;
}
