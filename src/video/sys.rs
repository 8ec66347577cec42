//! The calls into libav that `ffmpeg-next` has no safe wrapper for, each behind a safe function.
#![allow(
    unsafe_code,
    reason = "the one place where libav's structures are read and its scaler is called"
)]

use std::ffi::{CStr, c_int};
use std::ptr;

use ffmpeg_next::ffi::{self, AVPixelFormat};
use ffmpeg_next::format::context::Input;
use ffmpeg_next::format::stream::Stream;
use ffmpeg_next::packet::{Mut as _, Ref as _};
use ffmpeg_next::{Error, Packet, frame};

/// libav's name of `AVCOL_RANGE_JPEG`.
const FULL_RANGE: c_int = ffi::AVColorRange::AVCOL_RANGE_JPEG as c_int;
/// `sws_setColorspaceDetails`: contrast and saturation of 1 in 16.16.
const UNITY: c_int = 1 << 16;

/// What a stream's header says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct StreamHeader {
    pub(super) width: i32,
    pub(super) height: i32,
    /// Pixel aspect, 0/1 if unknown.
    pub(super) pixel_aspect: (i32, i32),
    pub(super) interlaced: bool,
    /// The rate that pictures have unless some are missing, as libav guesses it, in Hz as a fraction: what the `ffmpeg`
    /// command takes for a picture's length when the container does not have it.
    pub(super) usual_rate: (c_int, c_int),
    /// libav's name, `h264`.
    pub(super) codec: String,
    pub(super) extradata: Vec<u8>,
    /// Every packet is a whole picture that refers to no other.
    pub(super) intra_only: bool,
    /// Bits that a pixel takes in memory, 0 if unknown.
    pub(super) bits_per_pixel: u32,
    /// Light coded as PQ or HLG.
    pub(super) is_hdr: bool,
    /// Pictures by which a decoder is behind its packets.
    pub(super) delay: i64,
    /// The stream's number in the file, a transport stream's packet identifier.
    pub(super) id: c_int,
}

/// Reads the header of `stream`, a stream of `input`.
pub(super) fn stream_header(input: &mut Input, stream: usize) -> StreamHeader {
    let Some(of_input) = input.stream(stream) else {
        return StreamHeader::default();
    };
    // SAFETY: the stream is one of the input's, which is borrowed here and so alive; libav keeps codecpar set for
    // every stream. extradata is extradata_size bytes long or null. The format context is only read by the guesses.
    unsafe {
        let raw = of_input.as_ptr();
        let parameters = &*(*raw).codecpar;
        let aspect = ffi::av_guess_sample_aspect_ratio(input.as_mut_ptr(), raw.cast_mut(), ptr::null_mut());
        let rate = ffi::av_guess_frame_rate(input.as_mut_ptr(), raw.cast_mut(), ptr::null_mut());
        let extradata = if parameters.extradata.is_null() {
            Vec::new()
        } else {
            let length = usize::try_from(parameters.extradata_size).unwrap_or(0);
            std::slice::from_raw_parts(parameters.extradata, length).to_vec()
        };
        // The enum is read as a number: a file can hold values that the binding does not list.
        let field_order = ptr::addr_of!(parameters.field_order).cast::<c_int>().read();
        let transfer = ptr::addr_of!(parameters.color_trc).cast::<c_int>().read();
        let descriptor = ffi::avcodec_descriptor_get(parameters.codec_id);
        let intra_only = !descriptor.is_null() && (*descriptor).props & ffi::AV_CODEC_PROP_INTRA_ONLY as c_int != 0;
        let format = ffi::av_pix_fmt_desc_get(std::mem::transmute::<c_int, AVPixelFormat>(parameters.format));
        let bits_per_pixel = if format.is_null() {
            0
        } else {
            ffi::av_get_padded_bits_per_pixel(format)
        };
        StreamHeader {
            width: parameters.width,
            height: parameters.height,
            pixel_aspect: (aspect.num, aspect.den),
            interlaced: field_order > ffi::AVFieldOrder::AV_FIELD_PROGRESSIVE as c_int,
            usual_rate: (rate.num, rate.den),
            codec: CStr::from_ptr(ffi::avcodec_get_name(parameters.codec_id))
                .to_string_lossy()
                .into_owned(),
            extradata,
            intra_only,
            bits_per_pixel: u32::try_from(bits_per_pixel).unwrap_or(0),
            is_hdr: transfer == ffi::AVColorTransferCharacteristic::AVCOL_TRC_SMPTE2084 as c_int
                || transfer == ffi::AVColorTransferCharacteristic::AVCOL_TRC_ARIB_STD_B67 as c_int,
            delay: i64::from(parameters.video_delay),
            id: (*raw).id,
        }
    }
}

/// The video stream that the `ffmpeg` command takes: of those with pictures the largest, a bit for being the default one.
pub(super) fn best_video_stream(input: &Input) -> Option<usize> {
    // SAFETY: libav keeps nb_streams valid pointers in streams, and codecpar set in each; the context is borrowed.
    unsafe {
        let context = input.as_ptr();
        let score = |index: &usize| {
            let stream = &**(*context).streams.add(*index);
            let parameters = &*stream.codecpar;
            let pixels = i64::from(parameters.width) * i64::from(parameters.height);
            let has_pictures = stream.event_flags & ffi::AVSTREAM_EVENT_FLAG_NEW_PACKETS as c_int != 0;
            let is_default = stream.disposition & ffi::AV_DISPOSITION_DEFAULT as c_int != 0;
            pixels + 100_000_000 * i64::from(has_pictures) + 5_000_000 * i64::from(is_default)
        };
        let is_video = |index: &usize| {
            let stream = &**(*context).streams.add(*index);
            (*stream.codecpar).codec_type == ffi::AVMediaType::AVMEDIA_TYPE_VIDEO
                && stream.disposition & ffi::AV_DISPOSITION_ATTACHED_PIC as c_int == 0
        };
        // Of equal ones the first.
        (0..(*context).nb_streams as usize)
            .filter(is_video)
            .rev()
            .max_by_key(score)
    }
}

/// Whether times may start again in files of this container: where recordings are joined by their bytes.
pub(super) fn may_start_again(input: &Input) -> bool {
    // SAFETY: an opened context has its format set, a static description with a name.
    unsafe {
        let format = &*(*input.as_ptr()).iformat;
        // libav says so of live FLV only; servers append one push to the other in a file as well.
        format.flags & ffi::AVFMT_TS_DISCONT as c_int != 0 || CStr::from_ptr(format.name) == c"flv"
    }
}

/// Data beside a packet's that a decoder keeps for the packets to come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LastingData {
    kind: ffi::AVPacketSideDataType,
    bytes: Vec<u8>,
}

/// The kinds that decoders keep: a palette, new parameters.
const LASTING: [ffi::AVPacketSideDataType; 2] = [
    ffi::AVPacketSideDataType::AV_PKT_DATA_PALETTE,
    ffi::AVPacketSideDataType::AV_PKT_DATA_NEW_EXTRADATA,
];

/// Notes in `carried` what lasts of this packet.
pub(super) fn carry(carried: &mut Vec<LastingData>, packet: &Packet) {
    for kind in LASTING {
        if let Some(bytes) = lasting_data(packet, kind) {
            let bytes = bytes.to_vec();
            carried.retain(|data| data.kind != kind);
            carried.push(LastingData { kind, bytes });
        }
    }
}

fn lasting_data(packet: &Packet, kind: ffi::AVPacketSideDataType) -> Option<&[u8]> {
    let mut size = 0;
    // SAFETY: the packet is alive; what is returned is its own, of this size, and borrowed with it.
    unsafe {
        let data = ffi::av_packet_get_side_data(packet.as_ptr(), kind, &raw mut size);
        (!data.is_null()).then(|| std::slice::from_raw_parts(data, size))
    }
}

/// Gives `packet` what earlier ones carried, unless it brings its own.
pub(super) fn add_carried(packet: &mut Packet, carried: &[LastingData]) -> Result<(), Error> {
    for LastingData { kind, bytes } in carried {
        if lasting_data(packet, *kind).is_some() {
            continue;
        }
        // SAFETY: the packet is borrowed mutably; libav allocates as many bytes as are asked for.
        unsafe {
            let data = ffi::av_packet_new_side_data(packet.as_mut_ptr(), *kind, bytes.len());
            if data.is_null() {
                return Err(Error::Other { errno: ffi::ENOMEM });
            }
            ptr::copy_nonoverlapping(bytes.as_ptr(), data, bytes.len());
        }
    }
    Ok(())
}

/// Start of the earliest stream of sound or picture, in microseconds.
pub(super) fn start_microseconds(input: &Input) -> Option<i64> {
    // SAFETY: the context belongs to the borrowed input.
    let start = unsafe { (*input.as_ptr()).start_time };
    (start != ffi::AV_NOPTS_VALUE).then_some(start)
}

/// Has the demuxer drop the packets of every other stream.
pub(super) fn read_only(input: &mut Input, stream: usize) {
    // SAFETY: libav keeps nb_streams valid pointers in streams; the context is borrowed mutably.
    unsafe {
        let context = input.as_mut_ptr();
        for index in 0..(*context).nb_streams as usize {
            if index != stream {
                (**(*context).streams.add(index)).discard = ffi::AVDiscard::AVDISCARD_ALL;
            }
        }
    }
}

/// The start time of a stream, in its ticks.
pub(super) fn ticks_of_microseconds(microseconds: i64, stream: &Stream<'_>) -> i64 {
    // SAFETY: pure arithmetic; libav's own time bases are positive. Rounded down: a start is not after its picture.
    unsafe {
        ffi::av_rescale_q_rnd(
            microseconds,
            ffi::AVRational { num: 1, den: 1_000_000 },
            (*stream.as_ptr()).time_base,
            ffi::AVRounding::AV_ROUND_DOWN,
        )
    }
}

/// Whether the pictures of a packet are decoded but not shown (before the start of an edit list).
pub(super) fn is_hidden(packet: &Packet) -> bool {
    // SAFETY: the packet is alive.
    let flags = unsafe { (*packet.as_ptr()).flags };
    flags & ffi::AV_PKT_FLAG_DISCARD != 0
}

/// How a decoded picture lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameLayout {
    /// libav's number of the pixel format.
    pub(super) format: c_int,
    pub(super) width: u32,
    pub(super) height: u32,
    pub(super) full_range: bool,
    /// libav's number of the YUV matrix.
    pub(super) matrix: c_int,
    /// Red, green and blue, of themselves or by a palette.
    pub(super) is_rgb: bool,
}

impl FrameLayout {
    /// 8-bit 4:2:0 in three planes, of either range.
    pub(super) fn is_planar_420(self) -> bool {
        self.format == AVPixelFormat::AV_PIX_FMT_YUV420P as c_int
            || self.format == AVPixelFormat::AV_PIX_FMT_YUVJ420P as c_int
    }
}

/// The layout of a picture, with its enums as numbers: a file can hold values that the binding does not list.
pub(super) fn layout(picture: &frame::Video) -> FrameLayout {
    // SAFETY: the frame is alive; the enums are 32-bit numbers in C.
    unsafe {
        let raw = picture.as_ptr();
        let format = (*raw).format;
        let range = ptr::addr_of!((*raw).color_range).cast::<c_int>().read();
        let matrix = ptr::addr_of!((*raw).colorspace).cast::<c_int>().read();
        FrameLayout {
            format,
            width: u32::try_from((*raw).width).unwrap_or(0),
            height: u32::try_from((*raw).height).unwrap_or(0),
            full_range: range == FULL_RANGE || FULL_RANGE_FORMATS.iter().any(|full| *full as c_int == format),
            matrix,
            is_rgb: is_rgb(format),
        }
    }
}

/// Formats that are of full range whatever else is said.
const FULL_RANGE_FORMATS: [AVPixelFormat; 5] = [
    AVPixelFormat::AV_PIX_FMT_YUVJ420P,
    AVPixelFormat::AV_PIX_FMT_YUVJ422P,
    AVPixelFormat::AV_PIX_FMT_YUVJ444P,
    AVPixelFormat::AV_PIX_FMT_YUVJ440P,
    AVPixelFormat::AV_PIX_FMT_YUVJ411P,
];

/// Whether a pixel format, by libav's number, is of red, green and blue.
fn is_rgb(format: c_int) -> bool {
    // SAFETY: decoders give their pictures formats of libav's own list, of which the binding is a copy; -1 is one of it.
    // The descriptions are static tables.
    unsafe {
        let description = ffi::av_pix_fmt_desc_get(std::mem::transmute::<c_int, AVPixelFormat>(format));
        let flags = (ffi::AV_PIX_FMT_FLAG_RGB | ffi::AV_PIX_FMT_FLAG_PAL) as u64;
        !description.is_null() && (*description).flags & flags != 0
    }
}

/// A plane of a 4:2:0 picture: its bytes from the first row to the last, and the bytes from row to row. `None` if the
/// rows lie upside down in memory (AVI does that), or the plane is not there.
pub(super) fn plane(picture: &frame::Video, index: usize) -> Option<(&[u8], usize)> {
    let layout = layout(picture);
    if !layout.is_planar_420() || index > 2 {
        return None;
    }
    let (width, height) = match index {
        0 => (layout.width as usize, layout.height as usize),
        _ => (
            (layout.width as usize).div_ceil(2),
            (layout.height as usize).div_ceil(2),
        ),
    };
    // SAFETY: libav allocates linesize bytes for every row of a plane but the last, of which at least the width is
    // there. The slice lives as long as the borrowed frame, whose buffers nobody writes meanwhile: the decoder hands
    // out references to buffers that it only reads from then on.
    unsafe {
        let raw = picture.as_ptr();
        let data = (*raw).data[index];
        let stride = usize::try_from((*raw).linesize[index])
            .ok()
            .filter(|stride| *stride >= width)?;
        if data.is_null() || height == 0 {
            return None;
        }
        Some((std::slice::from_raw_parts(data, stride * (height - 1) + width), stride))
    }
}

/// Sets the quality that an encoder with fixed quality uses for this picture, on libav's lambda scale.
pub(super) fn set_quality(picture: &mut frame::Video, quality: i32) {
    // SAFETY: the frame is borrowed mutably.
    unsafe { (*picture.as_mut_ptr()).quality = quality }
}

/// A picture that shares the memory of `picture` and shows a part of it. The offset must be a multiple of the
/// chroma's steps; `None` if libav cannot do that for the pixel format.
pub(super) fn part(picture: &frame::Video, left: u32, top: u32, width: u32, height: u32) -> Option<frame::Video> {
    let (full_width, full_height) = (picture.width(), picture.height());
    let right = full_width.checked_sub(left.checked_add(width)?)?;
    let bottom = full_height.checked_sub(top.checked_add(height)?)?;
    let mut shared = frame::Video::empty();
    // SAFETY: both frames are alive, `shared` is empty as av_frame_ref wants it, and the crop lies within the frame.
    unsafe {
        let raw = shared.as_mut_ptr();
        if ffi::av_frame_ref(raw, picture.as_ptr()) < 0 {
            return None;
        }
        (*raw).crop_left = left as usize;
        (*raw).crop_top = top as usize;
        (*raw).crop_right = right as usize;
        (*raw).crop_bottom = bottom as usize;
        let flags = ffi::AV_FRAME_CROP_UNALIGNED as c_int;
        if ffi::av_frame_apply_cropping(raw, flags) < 0 {
            return None;
        }
    }
    (shared.width() == width && shared.height() == height).then_some(shared)
}

/// What a scaler was made for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Conversion {
    from: FrameLayout,
    to: FrameLayout,
}

/// Converts pictures to another size or pixel format, full range out. Made for the first picture, remade when the
/// next one is of another kind.
pub(super) struct Scaler {
    context: *mut ffi::SwsContext,
    conversion: Option<Conversion>,
}

// SAFETY: a swscale context is not bound to the thread that made it; it is only used through `&mut self`.
unsafe impl Send for Scaler {}

impl Default for Scaler {
    fn default() -> Self {
        Self::new()
    }
}

impl Scaler {
    pub(super) fn new() -> Self {
        Self {
            context: ptr::null_mut(),
            conversion: None,
        }
    }

    /// Fills `output`, which is allocated and whose size and format say what is wanted.
    pub(super) fn run(&mut self, input: &frame::Video, output: &mut frame::Video) -> Result<(), Error> {
        let conversion = Conversion {
            from: layout(input),
            to: layout(output),
        };
        if self.conversion != Some(conversion) {
            self.prepare(conversion)?;
        }
        // SAFETY: the context was made for exactly these sizes and formats; both frames are alive and allocated.
        let rows = unsafe {
            let (from, to) = (input.as_ptr(), output.as_mut_ptr());
            ffi::sws_scale(
                self.context,
                (*from).data.as_ptr().cast::<*const u8>(),
                (*from).linesize.as_ptr(),
                0,
                (*from).height,
                (*to).data.as_ptr(),
                (*to).linesize.as_ptr(),
            )
        };
        if rows < 0 { Err(Error::from(rows)) } else { Ok(()) }
    }

    fn prepare(&mut self, conversion: Conversion) -> Result<(), Error> {
        self.free();
        let Conversion { from, to } = conversion;
        let side = |value: u32| i64::from(value);
        let flags = i64::from(ffi::SWS_BICUBIC | ffi::SWS_ACCURATE_RND | ffi::SWS_FULL_CHR_H_INT);
        // Options first, as libavfilter does it: a range that is set after the start is ignored by some converters.
        let options: [(&CStr, i64); 9] = [
            (c"srcw", side(from.width)),
            (c"srch", side(from.height)),
            (c"src_format", i64::from(from.format)),
            (c"src_range", i64::from(from.full_range)),
            (c"dstw", side(to.width)),
            (c"dsth", side(to.height)),
            (c"dst_format", i64::from(to.format)),
            (c"dst_range", 1),
            (c"sws_flags", flags),
        ];
        // SAFETY: the context is checked for null, its options are set by name, and it is freed on every failure.
        // The matrices are libav's own static tables.
        unsafe {
            let context = ffi::sws_alloc_context();
            if context.is_null() {
                return Err(Error::Other { errno: ffi::ENOMEM });
            }
            self.context = context;
            for (name, value) in options {
                let outcome = ffi::av_opt_set_int(context.cast(), name.as_ptr(), value, 0);
                if outcome < 0 {
                    self.free();
                    return Err(Error::from(outcome));
                }
            }
            let outcome = ffi::sws_init_context(context, ptr::null_mut(), ptr::null_mut());
            if outcome < 0 {
                self.free();
                return Err(Error::from(outcome));
            }
            // JPEG is BT.601 by definition. Between YUV formats the numbers are kept: libav would go by RGB.
            let source_matrix = ffi::sws_getCoefficients(from.matrix);
            let target_matrix = if from.is_rgb || to.is_rgb {
                ffi::sws_getCoefficients(ffi::SWS_CS_DEFAULT)
            } else {
                source_matrix
            };
            ffi::sws_setColorspaceDetails(
                context,
                source_matrix,
                c_int::from(from.full_range),
                target_matrix,
                1,
                0,
                UNITY,
                UNITY,
            );
        }
        self.conversion = Some(conversion);
        Ok(())
    }

    fn free(&mut self) {
        // SAFETY: the context is ours or null, and forgotten at once.
        unsafe { ffi::sws_freeContext(self.context) };
        self.context = ptr::null_mut();
        self.conversion = None;
    }
}

impl Drop for Scaler {
    fn drop(&mut self) {
        self.free();
    }
}
