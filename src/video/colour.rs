//! From a film's YUV to a JPEG's, which is BT.601 in full range by definition: no viewer looks for anything else in one.
//!
//! BT.709 (HD) and BT.2020 (UHD) films have other weights for red, green and blue, and as numbers of BT.601 their colours
//! are up to 22 of 255 levels off. The way from one matrix to the other is linear: chroma depends on chroma alone, and
//! luma gets a correction that depends on the chroma beside it. So it is done on the planes as they are, without RGB.
//!
//! Films that do not say their matrix are taken for BT.601, as the `ffmpeg` command takes them. HDR (PQ, HLG) is not
//! mapped to the range of a screen: the numbers are shown as they are, pale, as in ffmpeg's PNG.

/// Fractional bits of a luma value while it is worked on.
const LUMA_BITS: u32 = 4;
/// Bits of the factors that chroma is multiplied by.
const CHROMA_BITS: u32 = 14;

/// The weights of red and blue in luma.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Weights {
    red: f64,
    blue: f64,
}

/// Of BT.601, and so of a JPEG.
const JPEG: Weights = Weights {
    red: 0.299,
    blue: 0.114,
};

impl Weights {
    /// Of libav's number of a matrix (ISO/IEC 23091-2); those that its scaler does not know it takes for BT.601.
    fn of(matrix: i32) -> Self {
        let (red, blue) = match matrix {
            1 => (0.2126, 0.0722),
            4 => (0.30, 0.11),
            7 => (0.212, 0.087),
            9 | 10 => (0.2627, 0.0593),
            _ => return JPEG,
        };
        Self { red, blue }
    }

    /// Red, green and blue of luma 0 and this chroma.
    fn rgb(self, [cb, cr]: [f64; 2]) -> [f64; 3] {
        let red = 2.0 * (1.0 - self.red) * cr;
        let blue = 2.0 * (1.0 - self.blue) * cb;
        let green = -(self.red * red + self.blue * blue) / (1.0 - self.red - self.blue);
        [red, green, blue]
    }

    /// Luma and chroma.
    fn yuv(self, [red, green, blue]: [f64; 3]) -> (f64, [f64; 2]) {
        let luma = self.red * red + (1.0 - self.red - self.blue) * green + self.blue * blue;
        let cb = (blue - luma) / (2.0 * (1.0 - self.blue));
        let cr = (red - luma) / (2.0 * (1.0 - self.red));
        (luma, [cb, cr])
    }
}

/// What makes a film's YUV that of a JPEG, in whole numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Matrix {
    /// Factor of luma, 13 bits after the point, and what is taken off the product.
    luma: u16,
    luma_offset: i16,
    /// What a step of Cb and of Cr adds to luma.
    to_luma: [i16; 2],
    /// What they add to Cb, and to Cr.
    to_cb: [i16; 2],
    to_cr: [i16; 2],
}

impl Matrix {
    /// For pictures of this matrix and range; `None` if their matrix is that of a JPEG.
    pub(super) fn new(matrix: i32, full_range: bool) -> Option<Self> {
        let from = Weights::of(matrix);
        if from == JPEG {
            return None;
        }
        let (luma_range, luma_black, chroma_range) = if full_range {
            (255.0, 0.0, 255.0)
        } else {
            (219.0, 16.0, 224.0)
        };
        // A step of chroma is this much of the whole.
        let (blue_luma, blue_step) = JPEG.yuv(from.rgb([255.0 / chroma_range, 0.0]));
        let (red_luma, red_step) = JPEG.yuv(from.rgb([0.0, 255.0 / chroma_range]));
        let scale = f64::from(1 << CHROMA_BITS);
        let luma = 255.0 / luma_range;
        Some(Self {
            luma: whole(luma * 8192.0),
            luma_offset: whole(luma * luma_black * f64::from(1 << LUMA_BITS)),
            to_luma: [whole(blue_luma * scale), whole(red_luma * scale)],
            to_cb: [whole(blue_step[0] * scale), whole(red_step[0] * scale)],
            to_cr: [whole(blue_step[1] * scale), whole(red_step[1] * scale)],
        })
    }

    /// What the luma beside these chroma samples of the film gets.
    pub(super) fn corrections(&self, cb: &[u8], cr: &[u8], corrections: &mut [i16]) {
        const SHIFT: u32 = CHROMA_BITS - LUMA_BITS;
        for ((correction, cb), cr) in corrections.iter_mut().zip(cb).zip(cr) {
            let (cb, cr) = (centred(*cb), centred(*cr));
            let sum = products([cb, cr], self.to_luma) >> SHIFT;
            #[expect(
                clippy::cast_possible_truncation,
                reason = "at most the whole range of luma, 12 bits"
            )]
            let sum = sum as i16;
            // Half a level for rounding comes with it.
            *correction = sum.wrapping_sub(self.luma_offset).wrapping_add(1 << (LUMA_BITS - 1));
        }
    }

    /// Luma of the film becomes that of the JPEG, with the correction for each.
    pub(super) fn luma(&self, luma: &mut [u8], corrections: &[i16]) {
        let factor = u32::from(self.luma);
        for (luma, correction) in luma.iter_mut().zip(corrections) {
            // In 16 bits, which is what a processor has many lanes of: 7 bits up, 13 of the factor, 16 down.
            // Below 255 * 1.17 * 16.
            let wide = (u32::from(u16::from(*luma) << 7).wrapping_mul(factor) >> 16) as u16;
            let value = wide.cast_signed().wrapping_add(*correction) >> LUMA_BITS;
            #[expect(clippy::cast_sign_loss, reason = "clamped to a byte")]
            let value = value.clamp(0, 255) as u8;
            *luma = value;
        }
    }

    /// Chroma of the film becomes that of the JPEG.
    pub(super) fn chroma(&self, cb: &mut [u8], cr: &mut [u8]) {
        let half = 1 << (CHROMA_BITS - 1);
        for (cb_byte, cr_byte) in cb.iter_mut().zip(cr) {
            let chroma = [centred(*cb_byte), centred(*cr_byte)];
            let byte = |factors: [i16; 2]| {
                let value = (products(chroma, factors).wrapping_add(half) >> CHROMA_BITS).wrapping_add(128);
                #[expect(clippy::cast_sign_loss, reason = "clamped to a byte")]
                let value = value.clamp(0, 255) as u8;
                value
            };
            (*cb_byte, *cr_byte) = (byte(self.to_cb), byte(self.to_cr));
        }
    }
}

fn centred(chroma: u8) -> i16 {
    i16::from(chroma).wrapping_sub(128)
}

/// Of 16 bits each, for which processors have an instruction that does many; far from the ends of 32 bits, and wrapping, so
/// that no check stands between the lanes of a vector.
fn products(chroma: [i16; 2], factors: [i16; 2]) -> i32 {
    let product = |at: usize| i32::from(chroma[at]).wrapping_mul(i32::from(factors[at]));
    product(0).wrapping_add(product(1))
}

/// A factor as a whole number.
fn whole<T: TryFrom<i32>>(value: f64) -> T
where
    T::Error: std::fmt::Debug,
{
    #[expect(clippy::cast_possible_truncation, reason = "factors are below 2 in 14 bits")]
    let value = value.round() as i32;
    T::try_from(value).expect("factors are below 2 in 14 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    const BT_709: i32 = 1;
    const BT_2020: i32 = 9;

    /// One pixel of the film, as bytes.
    fn coded(weights: Weights, full_range: bool, rgb: [f64; 3]) -> [u8; 3] {
        let (luma, chroma) = weights.yuv(rgb);
        let (luma_range, black, chroma_range) = if full_range {
            (1.0, 0.0, 1.0)
        } else {
            (219.0 / 255.0, 16.0, 224.0 / 255.0)
        };
        let byte = |value: f64| u8::try_from(whole::<i32>(value).clamp(0, 255)).expect("a byte");
        [
            byte(luma * luma_range + black),
            byte(chroma[0] * chroma_range + 128.0),
            byte(chroma[1] * chroma_range + 128.0),
        ]
    }

    #[test]
    fn colours_of_any_matrix_become_those_of_a_jpeg() {
        for (number, full_range) in [
            (BT_709, false),
            (BT_709, true),
            (BT_2020, false),
            (BT_2020, true),
            (7, false),
        ] {
            let matrix = Matrix::new(number, full_range).expect("another matrix than a JPEG's");
            for red in [0.0, 40.0, 128.0, 255.0] {
                for green in [0.0, 90.0, 255.0] {
                    for blue in [0.0, 200.0, 255.0] {
                        let [y, cb, cr] = coded(Weights::of(number), full_range, [red, green, blue]);
                        let (mut luma, mut cb, mut cr) = ([y], [cb], [cr]);
                        let mut correction = [0];
                        matrix.corrections(&cb, &cr, &mut correction);
                        matrix.luma(&mut luma, &correction);
                        matrix.chroma(&mut cb, &mut cr);
                        let expected = coded(JPEG, true, [red, green, blue]);
                        let found = [luma[0], cb[0], cr[0]];
                        let furthest = (0..3).map(|at| found[at].abs_diff(expected[at])).max();
                        assert!(furthest <= Some(1), "{number}: {found:?} for {expected:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_film_of_a_jpegs_own_matrix_stays_as_it_is() {
        assert_eq!([2, 5, 6, 0, 8, 99].map(|number| Matrix::new(number, false)), [None; 6]);
    }
}
