//! Which picture is on display when, and what has to be decoded for it. Pure: packets' times in, a plan out.
//!
//! Times are whole ticks of the stream's time base; they are compared with k / rate as exact fractions.

use std::ops::RangeInclusive;

/// Leading pictures that may follow a key picture for it to begin a group: real encoders have a handful. A file with
/// more is decoded across that key picture.
const MAX_LEADING_PACKETS: usize = 64;
/// The longest video: four and a half days. What is longer has a wrong time in it.
const MAX_SECONDS: i128 = 400_000;
/// A stream of sound that starts this long before the picture is a fault of the file, not a black start.
const MAX_START_GAP_SECONDS: i64 = 12 * 60 * 60;
/// A packet whose time is this much later than that of the one before it, and the packets behind it not, has a wrong time.
const STRAY_SECONDS: i64 = 10;
/// Packets in a row that may have a wrong time.
const MAX_STRAY_PACKETS: usize = 100;

/// A positive fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fraction {
    pub(super) numerator: i64,
    pub(super) denominator: i64,
}

impl Fraction {
    #[expect(clippy::cast_precision_loss, reason = "both come from 32-bit numbers")]
    pub(super) fn value(self) -> f64 {
        self.numerator as f64 / self.denominator as f64
    }
}

/// What the packet pass keeps of a packet of the video stream, in the order of decoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PacketFacts {
    /// Presentation time.
    pub(super) pts: Option<i64>,
    /// Decoding time.
    pub(super) dts: Option<i64>,
    /// 0 if unknown.
    pub(super) duration: i64,
    /// Decoding can begin here.
    pub(super) key: bool,
    /// Decoded but not shown (before the start of an edit list).
    pub(super) hidden: bool,
    /// Known to be damaged, or to refer to what was lost.
    pub(super) damaged: bool,
}

/// A picture and the samples that show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Needed {
    pub(super) pts: i64,
    pub(super) samples: RangeInclusive<u64>,
}

/// A group of pictures of which some are needed: decoding begins at the key packet `first` and is over with packet
/// `last`, which may be a leading picture of the next group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    pub(super) first: usize,
    pub(super) last: usize,
    /// Pictures before this time are leading ones that refer to pictures before the group.
    pub(super) start_pts: i64,
    /// In order of time.
    pub(super) needed: Vec<Needed>,
}

/// How to get at the pictures.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// Group by group. The groups are in order, and do not overlap but for the leading pictures at their ends.
    Groups(Vec<Group>),
    /// All packets from the first key packet on: the packets do not tell which pictures come out of them.
    Everything,
}

/// The video's timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Timeline {
    /// The tick of t = 0; `None` if only the decoder can tell: it is `lead` before the first picture's.
    pub(super) origin: Option<i64>,
    pub(super) lead: i64,
    /// Ticks from the origin to the end of the last picture.
    pub(super) length: i64,
    /// The first packet to decode.
    pub(super) first_packet: usize,
    /// Pictures that are shown, as far as the packets tell.
    pub(super) pictures: usize,
    /// A picture's usual length, in ticks.
    pub(super) interval: i64,
    /// Time and packet of every picture in order of time; empty if the packets do not tell.
    shown: Vec<(i64, usize)>,
}

/// Sample times: k / rate, in ticks.
#[derive(Debug, Clone, Copy)]
pub(super) struct SampleClock {
    /// Ticks a sample, as a fraction.
    numerator: i128,
    denominator: i128,
    /// Ticks of the longest video.
    longest: i128,
}

impl SampleClock {
    pub(super) fn new(rate_hz: Fraction, time_base: Fraction) -> Self {
        Self {
            numerator: i128::from(rate_hz.denominator) * i128::from(time_base.denominator),
            denominator: i128::from(rate_hz.numerator) * i128::from(time_base.numerator),
            longest: MAX_SECONDS * i128::from(time_base.denominator) / i128::from(time_base.numerator),
        }
    }

    /// The last tick that is not after sample `k`, from the origin.
    pub(super) fn tick(self, sample: u64) -> i128 {
        i128::from(sample) * self.numerator / self.denominator
    }

    /// Samples before `length` ticks, at least one. `None` if that is longer than any real video.
    pub(super) fn samples_in(self, length: i64) -> Option<u64> {
        let length = i128::from(length.max(1));
        (length <= self.longest).then(|| self.samples_before(length).max(1))
    }

    /// Samples whose time is before this tick from the origin.
    pub(super) fn samples_before(self, tick: i128) -> u64 {
        let samples = (tick.max(0).saturating_mul(self.denominator) + self.numerator - 1) / self.numerator;
        u64::try_from(samples).unwrap_or(u64::MAX)
    }
}

impl Timeline {
    /// The timeline of a stream's packets; `None` if nothing is shown.
    ///
    /// `container_start` is the start of the earliest stream of sound or picture in ticks of this one,
    /// `usual_interval` what the container says of a picture's length. With `fields` a packet may be half a picture.
    pub(super) fn of(
        packets: &[PacketFacts],
        container_start: Option<i64>,
        usual_interval: Option<i64>,
        time_base: Fraction,
        fields: bool,
    ) -> Option<Self> {
        // What comes before the first key picture cannot be decoded; players leave it out as well.
        let first_packet = packets.iter().position(|packet| packet.key).unwrap_or(0);
        let first_pts = packets.get(first_packet)?.pts;
        let decodable = || {
            packets
                .iter()
                .enumerate()
                .skip(first_packet)
                .filter(|(_, packet)| !packet.hidden)
        };
        let pictures = decodable().count();
        if pictures == 0 {
            return None;
        }
        let has_key = packets[first_packet].key;
        let gap_limit = MAX_START_GAP_SECONDS.saturating_mul(time_base.denominator) / time_base.numerator.max(1);
        let is_start = |start: i64, first: i64| start <= first && first.saturating_sub(start) <= gap_limit;

        let mut shown: Vec<(i64, usize)> = Vec::new();
        if decodable().all(|(_, packet)| packet.pts.is_some()) {
            shown = decodable()
                .filter_map(|(index, packet)| packet.pts.map(|pts| (pts, index)))
                // Leading pictures of the very first key picture refer to what is not there.
                .filter(|(pts, _)| packets[first_packet].hidden || first_pts.is_none_or(|first| *pts >= first))
                .collect();
            shown.sort_unstable();
        }
        if let (Some((first, _)), Some((last, last_index))) = (shown.first().copied(), shown.last().copied()) {
            let span = last.saturating_sub(first);
            let interval = usual_interval
                .or_else(|| mean_interval(span, shown.len()))
                .unwrap_or(1)
                .max(1);
            let origin = container_start.filter(|start| is_start(*start, first)).unwrap_or(first);
            let last_length = match packets[last_index].duration {
                // libav says one tick where it does not know, in QuickTime files with a coarse clock.
                duration if duration > 1 => duration,
                _ => interval,
            };
            let unique = shown.windows(2).all(|pair| pair[0].0 < pair[1].0);
            let pictures = shown.len();
            if fields || !has_key || !unique {
                shown.clear();
            }
            return Some(Self {
                origin: Some(origin),
                lead: 0,
                length: last.saturating_add(last_length).saturating_sub(origin),
                first_packet,
                pictures,
                interval,
                shown,
            });
        }
        // Without presentation times, the decoding times have the same spacing; a mixture of both has not.
        let has_decoding_times = decodable().all(|(_, packet)| packet.dts.is_some());
        let times = || {
            let presented = move |packet: &PacketFacts| packet.pts.filter(|_| !has_decoding_times);
            decodable().filter_map(move |(_, packet)| presented(packet).or(packet.dts))
        };
        let span = match (times().min(), times().max()) {
            (Some(first), Some(last)) => Some(last.saturating_sub(first)),
            _ => None,
        };
        let interval = usual_interval
            .or_else(|| mean_interval(span?, pictures))
            .unwrap_or(1)
            .max(1);
        let pictures_long = interval.saturating_mul(i64::try_from(pictures).unwrap_or(i64::MAX));
        // The last ones may be without a time: then all of them are as long as they usually are.
        let length = match span.map(|span| span.saturating_add(interval)) {
            Some(length) if times().count() == pictures => length,
            length => length.unwrap_or(0).max(pictures_long),
        };
        // The first picture is shown at the time that its packet has, or before which no other can be decoded.
        let first_time = packets[first_packet].pts.or(packets[first_packet].dts);
        let lead = match (container_start, first_time) {
            (Some(start), Some(first)) if is_start(start, first) => first - start,
            _ => 0,
        };
        Some(Self {
            origin: None,
            lead,
            length: length.saturating_add(lead),
            first_packet,
            pictures,
            interval,
            shown: Vec::new(),
        })
    }

    /// Where the packets' times are known: the packets from which a decoder can start, as `(time, index)`.
    pub(super) fn starts(&self, packets: &[PacketFacts]) -> Vec<(i64, usize)> {
        group_starts(packets, self.first_packet)
    }

    /// The way to the first `samples` samples.
    pub(super) fn route(&self, packets: &[PacketFacts], clock: SampleClock, samples: u64) -> Route {
        let (Some(origin), false) = (self.origin, self.shown.is_empty()) else {
            return Route::Everything;
        };
        let starts = group_starts(packets, self.first_packet);
        let mut groups: Vec<Group> = Vec::new();
        let mut start_at = 0;
        let mut shown_at = 0;
        for sample in 0..samples {
            let tick = i128::from(origin) + clock.tick(sample);
            while self
                .shown
                .get(shown_at + 1)
                .is_some_and(|(pts, _)| i128::from(*pts) <= tick)
            {
                shown_at += 1;
            }
            let (pts, index) = self.shown[shown_at];
            while starts.get(start_at + 1).is_some_and(|(start_pts, _)| *start_pts <= pts) {
                start_at += 1;
            }
            let (start_pts, first) = starts[start_at];
            match groups.last_mut() {
                Some(group) if group.first == first => {
                    group.last = group.last.max(index);
                    match group.needed.last_mut() {
                        Some(needed) if needed.pts == pts => needed.samples = *needed.samples.start()..=sample,
                        _ => group.needed.push(Needed {
                            pts,
                            samples: sample..=sample,
                        }),
                    }
                }
                _ => groups.push(Group {
                    first,
                    last: index,
                    start_pts,
                    needed: vec![Needed {
                        pts,
                        samples: sample..=sample,
                    }],
                }),
            }
        }
        Route::Groups(groups)
    }
}

/// The packets whose time is much later than that of the one before them.
pub(super) fn leaps(packets: &[PacketFacts], time_base: Fraction) -> Vec<usize> {
    let stray = STRAY_SECONDS.saturating_mul(time_base.denominator / time_base.numerator.max(1));
    let timed = packets.iter().enumerate();
    let timed: Vec<_> = timed.filter_map(|(index, packet)| Some((index, packet.dts?))).collect();
    let is_leap = |pair: &&[(usize, i64)]| pair[1].1.saturating_sub(pair[0].1) > stray;
    timed.windows(2).filter(is_leap).map(|pair| pair[1].0).collect()
}

/// Has the times go on where they start again, as in recordings of which one was appended to the other: each begins where
/// the one before it ended, `interval` after its last picture; also at `joints`, where another one begins whose clock is ahead. A
/// few packets alone whose time is far off get times between their neighbours'.
pub(super) fn go_on_after_restarts(packets: &mut [PacketFacts], joints: &[usize], interval: i64, time_base: Fraction) {
    let second = time_base.denominator / time_base.numerator.max(1);
    let mut offset = 0_i64;
    let mut last: Option<i64> = None;
    // Before the last leap ahead: the packet that leapt, and the time before it.
    let mut leap: Option<(usize, i64)> = None;
    for index in 0..packets.len() {
        let Some(dts) = packets[index].dts else {
            packets[index].pts = packets[index].pts.map(|pts| pts.saturating_add(offset));
            continue;
        };
        let mut now = dts.saturating_add(offset);
        if let Some(before) = last
            && joints.binary_search(&index).is_ok()
        {
            offset = offset.saturating_add(before.saturating_add(interval).saturating_sub(now));
            now = dts.saturating_add(offset);
            leap = None;
            last = None;
        } else if let Some(before) = last {
            if now.saturating_sub(before) > STRAY_SECONDS.saturating_mul(second) {
                leap = Some((index, before));
            }
            // As the ffmpeg command has it: a tenth of a second back is another recording.
            if now.saturating_add(second / 10) < before {
                match leap {
                    Some((first, time)) if now >= time && index - first <= MAX_STRAY_PACKETS => {
                        for (at, stray) in packets[first..index].iter_mut().enumerate() {
                            let guess =
                                time.saturating_add(interval.saturating_mul(i64::try_from(at).unwrap_or(0) + 1));
                            (stray.pts, stray.dts) = (Some(guess.min(now)), Some(guess.min(now)));
                        }
                    }
                    _ => {
                        offset = offset.saturating_add(before.saturating_add(interval).saturating_sub(now));
                        now = dts.saturating_add(offset);
                    }
                }
                leap = None;
                last = None;
            }
        }
        last = last.max(Some(now));
        let packet = &mut packets[index];
        packet.dts = Some(now);
        packet.pts = packet.pts.map(|pts| pts.saturating_add(offset));
    }
}

fn mean_interval(span: i64, pictures: usize) -> Option<i64> {
    let gaps = i64::try_from(pictures).ok()?.checked_sub(1).filter(|gaps| *gaps > 0)?;
    Some(span / gaps)
}

/// Time and index of the key packets at which a decoder can start and show everything from their time on.
///
/// A key packet begins a group if all pictures before it in decoding order are before it in time too; leading
/// pictures (after it in decoding order, before it in time) belong to the group before.
fn group_starts(packets: &[PacketFacts], first_packet: usize) -> Vec<(i64, usize)> {
    // What follows a packet by more than the leading pictures must not be before it in time.
    let mut earliest_later = vec![i64::MAX; packets.len() + 1];
    for (index, packet) in packets.iter().enumerate().rev() {
        let own = packet.pts.filter(|_| !packet.hidden).unwrap_or(i64::MAX);
        earliest_later[index] = earliest_later[index + 1].min(own);
    }
    let mut starts = Vec::new();
    let mut latest_before = i64::MIN;
    for (index, packet) in packets.iter().enumerate().skip(first_packet) {
        let Some(pts) = packet.pts else { continue };
        if index == first_packet {
            starts.push((pts, index));
        } else if packet.key && !packet.hidden && latest_before < pts {
            let beyond = (index + 1 + MAX_LEADING_PACKETS).min(packets.len());
            if earliest_later[beyond] >= pts {
                starts.push((pts, index));
            }
        }
        if !packet.hidden {
            latest_before = latest_before.max(pts);
        }
    }
    starts
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECONDS: Fraction = Fraction {
        numerator: 1,
        denominator: 1000,
    };
    const TEN_HZ: Fraction = Fraction {
        numerator: 10,
        denominator: 1,
    };

    fn packet(pts: i64, key: bool) -> PacketFacts {
        PacketFacts {
            pts: Some(pts),
            dts: None,
            duration: 40,
            key,
            hidden: false,
            damaged: false,
        }
    }

    fn timeline(packets: &[PacketFacts], container_start: Option<i64>) -> Timeline {
        Timeline::of(packets, container_start, None, MILLISECONDS, false).expect("pictures")
    }

    /// Time, first and last sample of every needed picture of a group.
    type Shown = Vec<(i64, u64, u64)>;

    /// First and last packet and the needed pictures of every group.
    fn needed(packets: &[PacketFacts], rate_hz: Fraction) -> Vec<(usize, usize, Shown)> {
        let timeline = timeline(packets, None);
        let clock = SampleClock::new(rate_hz, MILLISECONDS);
        let samples = clock.samples_in(timeline.length).expect("a sane length");
        let Route::Groups(groups) = timeline.route(packets, clock, samples) else {
            panic!("no groups: {timeline:?}")
        };
        let list = |group: &Group| {
            let pictures = group.needed.iter();
            pictures
                .map(|needed| (needed.pts, *needed.samples.start(), *needed.samples.end()))
                .collect()
        };
        groups
            .iter()
            .map(|group| (group.first, group.last, list(group)))
            .collect()
    }

    #[test]
    fn a_sample_shows_the_last_picture_that_is_not_after_it() {
        let packets: Vec<_> = (0..6).map(|at| packet(at * 40, at == 0)).collect();
        assert_eq!(
            needed(&packets, TEN_HZ),
            [(0, 5, vec![(0, 0, 0), (80, 1, 1), (200, 2, 2)])]
        );
    }

    #[test]
    fn a_picture_that_stays_is_decoded_once_for_all_its_samples() {
        let packets = [packet(0, true), packet(250, false), packet(900, false)];
        assert_eq!(
            needed(&packets, TEN_HZ),
            [(0, 2, vec![(0, 0, 2), (250, 3, 8), (900, 9, 9)])]
        );
    }

    #[test]
    fn leading_pictures_belong_to_the_group_before() {
        // Decoding order: I0 P120 b40 b80 | I240 b160 b200 P360 …
        let times = [
            (0, true),
            (120, false),
            (40, false),
            (80, false),
            (240, true),
            (160, false),
            (200, false),
            (360, false),
        ];
        let packets: Vec<_> = times.into_iter().map(|(pts, key)| packet(pts, key)).collect();
        assert_eq!(
            needed(&packets, TEN_HZ),
            [
                (0, 6, vec![(0, 0, 0), (80, 1, 1), (200, 2, 2)]),
                (4, 4, vec![(240, 3, 3)])
            ]
        );
    }

    #[test]
    fn groups_without_a_needed_picture_are_left_out() {
        let packets: Vec<_> = (0..100).map(|at| packet(at * 40, at % 10 == 0)).collect();
        let half_hz = Fraction {
            numerator: 1,
            denominator: 2,
        };
        assert_eq!(
            needed(&packets, half_hz),
            [(0, 0, vec![(0, 0, 0)]), (50, 50, vec![(2000, 1, 1)])]
        );
    }

    #[test]
    fn the_timeline_starts_with_the_earliest_stream() {
        let packets = [packet(500, true), packet(540, false)];
        assert_eq!(timeline(&packets, Some(300)).origin, Some(300));
        assert_eq!(timeline(&packets, Some(300)).length, 280);
        assert_eq!(timeline(&packets, None).origin, Some(500));
        assert_eq!(timeline(&packets, Some(-864_000_000)).origin, Some(500));
    }

    #[test]
    fn packets_that_do_not_tell_their_pictures_are_all_decoded() {
        let clock = SampleClock::new(TEN_HZ, MILLISECONDS);
        let twice = [packet(0, true), packet(40, false), packet(40, false)];
        assert_eq!(timeline(&twice, None).route(&twice, clock, 1), Route::Everything);
        let mut untimed = [packet(0, true), packet(40, false)];
        untimed[1].pts = None;
        untimed[1].dts = Some(40);
        assert_eq!(timeline(&untimed, None).origin, None);
        assert_eq!(timeline(&untimed, None).route(&untimed, clock, 1), Route::Everything);
    }

    #[test]
    fn where_some_presentation_times_are_missing_the_length_is_that_of_the_decoding_times() {
        // I P b b, as a program stream has them: the time of P is not given.
        let mut packets = [
            packet(40, true),
            packet(160, false),
            packet(80, false),
            packet(120, false),
        ];
        for (at, packet) in packets.iter_mut().enumerate() {
            packet.dts = i64::try_from(at * 40).ok();
        }
        packets[1].pts = None;
        assert_eq!(timeline(&packets, None).length, 160);
    }

    /// Decoding times in milliseconds, and what they become.
    #[track_caller]
    fn check_restarts(times: &[i64], expected: &[i64]) {
        check_joints(times, &[], expected);
    }

    #[track_caller]
    fn check_joints(times: &[i64], joints: &[usize], expected: &[i64]) {
        let packet = |time: &i64| PacketFacts {
            dts: Some(*time),
            ..packet(*time + 40, false)
        };
        let mut packets: Vec<_> = times.iter().map(packet).collect();
        go_on_after_restarts(&mut packets, joints, 40, MILLISECONDS);
        let found: Vec<_> = packets.iter().filter_map(|packet| packet.dts).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_time_that_starts_again_goes_on() {
        check_restarts(&[0, 40, 80], &[0, 40, 80]);
        check_restarts(&[1000, 1500, 0, 500, 0, 500], &[1000, 1500, 1540, 2040, 2080, 2580]);
        // A little back is a writer's inaccuracy, far ahead a film that pauses.
        check_restarts(&[0, 40, 30, 80, 90_000], &[0, 40, 30, 80, 90_000]);
        check_restarts(&[0, 40, 9_000_000, 120, 160], &[0, 40, 80, 120, 160]);
    }

    #[test]
    fn a_clock_that_is_ahead_goes_on_where_another_recording_begins() {
        let times = [0, 40, 9_000_000, 9_000_040, 9_030_000];
        let packets: Vec<_> = times
            .map(|time| PacketFacts {
                dts: Some(time),
                ..packet(time, false)
            })
            .into();
        assert_eq!(leaps(&packets, MILLISECONDS), [2, 4]);
        check_joints(&times, &[2], &[0, 40, 80, 120, 30_080]);
        check_joints(&[0, 9_000_000, 0, 40], &[1], &[0, 40, 80, 120]);
    }

    #[test]
    fn a_length_of_one_tick_is_none() {
        let with_length = |time: i64, duration: i64| PacketFacts {
            duration,
            ..packet(time, time == 0)
        };
        let packets: Vec<_> = (0..5).map(|at| with_length(at * 40, 1)).collect();
        assert_eq!(timeline(&packets, None).length, 200);
        let still = [with_length(0, 25_000)];
        assert_eq!(timeline(&still, None).length, 25_000);
    }

    #[test]
    fn an_absurd_length_is_no_number_of_samples() {
        assert_eq!(SampleClock::new(TEN_HZ, MILLISECONDS).samples_in(i64::MAX), None);
        assert_eq!(SampleClock::new(TEN_HZ, MILLISECONDS).samples_in(0), Some(1));
        assert_eq!(SampleClock::new(TEN_HZ, MILLISECONDS).samples_in(1000), Some(10));
        assert_eq!(SampleClock::new(TEN_HZ, MILLISECONDS).samples_in(1001), Some(11));
    }
}
