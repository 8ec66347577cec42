//! Single pictures: libav's JPEG encoder, which makes the smallest files at equal likeness, and zune's decoder, which takes a fifth of
//! the time of libav's with its conversion to RGB.

use ffmpeg_next::format::Pixel;
use ffmpeg_next::{Error, Packet, Rational, codec, decoder, encoder, ffi, frame};

use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;

use super::error::VideoError;
use super::picture::MAX_PIXELS;
use super::{libav, sys};
use crate::picture::RgbPicture;

/// Encodes pictures of one size.
pub(super) struct JpegEncoder {
    encoder: encoder::Video,
    quality: i32,
    next_pts: i64,
}

impl JpegEncoder {
    /// An encoder for full-range 4:2:0 pictures of this size, in pixels.
    pub(super) fn open(width: u32, height: u32, qscale: i32) -> Result<Self, VideoError> {
        let failed = |source| VideoError::Libav {
            step: "open the JPEG encoder",
            source,
        };
        let codec = encoder::find(codec::Id::MJPEG).ok_or(failed(Error::EncoderNotFound))?;
        let mut settings = codec::Context::new_with_codec(codec)
            .encoder()
            .video()
            .map_err(failed)?;
        let quality = qscale * ffi::FF_QP2LAMBDA;
        settings.set_width(width);
        settings.set_height(height);
        settings.set_format(Pixel::YUVJ420P);
        settings.set_time_base(Rational::new(1, 1));
        settings.set_global_quality(quality);
        settings.set_qmin(1);
        settings.set_qmax(31);
        // Bit-exact leaves out the encoder's name, 16 bytes a picture.
        settings.set_flags(codec::Flags::QSCALE | codec::Flags::BITEXACT);
        settings.set_threading(codec::threading::Config {
            kind: codec::threading::Type::None,
            count: 1,
            ..Default::default()
        });
        let encoder = settings.open_as(codec).map_err(failed)?;
        Ok(Self {
            encoder,
            quality,
            next_pts: 0,
        })
    }

    /// The JPEG file of `picture`.
    pub(super) fn encode(&mut self, picture: &mut frame::Video) -> Result<Vec<u8>, VideoError> {
        let failed = |source| VideoError::Libav {
            step: "encode a JPEG",
            source,
        };
        sys::set_quality(picture, self.quality);
        picture.set_pts(Some(self.next_pts));
        self.next_pts += 1;
        self.encoder.send_frame(picture).map_err(failed)?;
        let mut packet = Packet::empty();
        self.encoder.receive_packet(&mut packet).map_err(failed)?;
        Ok(packet.data().unwrap_or_default().to_vec())
    }
}

/// The JPEG file of a picture.
///
/// `qscale` is libav's scale: 2 is about quality 95.
///
/// # Errors
/// [`VideoError::Libav`].
///
/// # Panics
/// If the picture's data does not fit its size.
pub fn encode_jpeg(picture: &RgbPicture, qscale: i32) -> Result<Vec<u8>, VideoError> {
    libav::set_up();
    let (width, height) = (picture.width, picture.height);
    let mut rgb = frame::Video::new(Pixel::RGB24, width, height);
    let (row_bytes, stride) = (width as usize * 3, rgb.stride(0));
    let rows = rgb
        .data_mut(0)
        .chunks_mut(stride)
        .zip(picture.data.chunks_exact(row_bytes));
    for (to, from) in rows.take(height as usize) {
        to[..row_bytes].copy_from_slice(from);
    }
    let mut coded = frame::Video::new(Pixel::YUVJ420P, width, height);
    sys::Scaler::new()
        .run(&rgb, &mut coded)
        .map_err(|source| VideoError::Libav {
            step: "convert a picture for a JPEG",
            source,
        })?;
    JpegEncoder::open(width, height, qscale)?.encode(&mut coded)
}

/// Decodes one JPEG into RGB, at its exact size.
///
/// # Errors
/// [`VideoError::InvalidJpeg`] for anything but one whole JPEG picture, also for one of more pixels than a video may
/// have.
pub fn decode_jpeg(jpeg: &[u8]) -> Result<RgbPicture, VideoError> {
    let invalid = |detail: String| VideoError::InvalidJpeg {
        bytes: jpeg.len(),
        detail,
    };
    // Strict: a picture that is not whole is no picture.
    let options = DecoderOptions::default()
        .set_strict_mode(true)
        .set_max_width(usize::from(u16::MAX))
        .set_max_height(usize::from(u16::MAX))
        .jpeg_set_out_colorspace(ColorSpace::RGB);
    let mut decoder = zune_jpeg::JpegDecoder::new_with_options(ZCursor::new(jpeg), options);
    decoder.decode_headers().map_err(|error| invalid(error.to_string()))?;
    let info = decoder.info().ok_or_else(|| invalid("it has no header".to_owned()))?;
    let (width, height) = (u32::from(info.width), u32::from(info.height));
    if u64::from(width) * u64::from(height) > MAX_PIXELS {
        return Err(invalid(format!("{width}x{height} pixels are more than {MAX_PIXELS}")));
    }
    let data = decoder.decode().map_err(|error| invalid(error.to_string()))?;
    if data.len() != width as usize * height as usize * 3 {
        return Err(invalid("it is neither grey nor coloured".to_owned()));
    }
    Ok(RgbPicture { width, height, data })
}

/// How a file begins.
const PNG_START: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Decodes one JPEG or PNG into RGB, at its exact size.
///
/// # Errors
/// [`VideoError::InvalidJpeg`] for anything but one whole picture, also for one of more pixels than a video may have.
pub fn decode_picture(file: &[u8]) -> Result<RgbPicture, VideoError> {
    if !file.starts_with(PNG_START) {
        return decode_jpeg(file);
    }
    let picture = decoded(open_decoder(codec::Id::PNG, file.len())?, file)?;
    let (width, height) = (picture.width(), picture.height());
    let mut rgb = frame::Video::new(Pixel::RGB24, width, height);
    sys::Scaler::default()
        .run(&picture, &mut rgb)
        .map_err(|source| VideoError::Libav {
            step: "convert a picture to RGB",
            source,
        })?;
    let (row_bytes, stride) = (width as usize * 3, rgb.stride(0));
    let mut data = Vec::with_capacity(row_bytes * height as usize);
    for row in rgb.data(0).chunks(stride).take(height as usize) {
        data.extend_from_slice(&row[..row_bytes]);
    }
    Ok(RgbPicture { width, height, data })
}

fn open_decoder(id: codec::Id, bytes: usize) -> Result<decoder::Video, VideoError> {
    libav::set_up();
    let codec = decoder::find(id).ok_or(VideoError::Libav {
        step: "find the decoder of a picture",
        source: Error::DecoderNotFound,
    })?;
    let mut options = ffmpeg_next::Dictionary::new();
    options.set("max_pixels", &MAX_PIXELS.to_string());
    options.set("threads", "1");
    // A picture that is not whole is no picture.
    options.set("err_detect", "explode");
    let context = codec::Context::new_with_codec(codec).decoder();
    let opened = context.open_as_with(codec, options).and_then(decoder::Opened::video);
    opened.map_err(|error| VideoError::InvalidJpeg {
        bytes,
        detail: error.to_string(),
    })
}

fn decoded(mut decoder: decoder::Video, file: &[u8]) -> Result<frame::Video, VideoError> {
    let invalid = |detail: String| VideoError::InvalidJpeg {
        bytes: file.len(),
        detail,
    };
    let said = |error: Error| invalid(error.to_string());
    decoder.send_packet(&Packet::copy(file)).map_err(said)?;
    let mut picture = frame::Video::empty();
    decoder.receive_frame(&mut picture).map_err(said)?;
    if picture.is_corrupt() || picture.has_decode_errors() {
        return Err(invalid("it is damaged".to_owned()));
    }
    Ok(picture)
}
