//! JPEG: libav's encoder, which makes the smallest files at equal likeness, and its decoder.

use ffmpeg_next::format::Pixel;
use ffmpeg_next::{Error, Packet, Rational, codec, decoder, encoder, ffi, frame};

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
    JpegDecoder::default().decode(jpeg)
}

/// How files begin.
const JPEG_START: &[u8] = &[0xff, 0xd8];
const PNG_START: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Decodes one JPEG or PNG into RGB, at its exact size.
///
/// # Errors
/// [`VideoError::InvalidJpeg`] for anything but one whole picture, also for one of more pixels than a video may have.
pub fn decode_picture(file: &[u8]) -> Result<RgbPicture, VideoError> {
    if !file.starts_with(PNG_START) {
        return decode_jpeg(file);
    }
    let (_, picture) = decoded(open_decoder(codec::Id::PNG, file.len())?, file)?;
    rgb_of(&picture, &mut sys::Scaler::default())
}

/// Decodes JPEGs, one after the other.
#[derive(Default)]
pub(super) struct JpegDecoder {
    scaler: sys::Scaler,
    /// Kept from picture to picture: to open one takes as long as to decode a small picture.
    decoder: Option<decoder::Video>,
}

impl JpegDecoder {
    /// See [`decode_jpeg`].
    pub(super) fn decode(&mut self, jpeg: &[u8]) -> Result<RgbPicture, VideoError> {
        if !jpeg.starts_with(JPEG_START) {
            return Err(VideoError::InvalidJpeg {
                bytes: jpeg.len(),
                detail: "it does not begin as one".to_owned(),
            });
        }
        let decoder = match self.decoder.take() {
            Some(decoder) => decoder,
            None => open_decoder(codec::Id::MJPEG, jpeg.len())?,
        };
        // One that has failed is not used again.
        let (decoder, picture) = decoded(decoder, jpeg)?;
        self.decoder = Some(decoder);
        rgb_of(&picture, &mut self.scaler)
    }
}

fn rgb_of(picture: &frame::Video, scaler: &mut sys::Scaler) -> Result<RgbPicture, VideoError> {
    let (width, height) = (picture.width(), picture.height());
    let mut rgb = frame::Video::new(Pixel::RGB24, width, height);
    scaler.run(picture, &mut rgb).map_err(|source| VideoError::Libav {
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

fn decoded(mut decoder: decoder::Video, file: &[u8]) -> Result<(decoder::Video, frame::Video), VideoError> {
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
    Ok((decoder, picture))
}
