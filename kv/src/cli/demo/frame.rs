//! How a demo looks: a picture of the cluster as a frame of the terminal, or as a line of text. Pure: the same scene
//! gives the same frame.
//!
//! ```text
//!   what is being shown, and the act that it is at
//!   stores    a line each: how it stands, bars of what it leads and holds
//!   regions   a line for each store, a column for each region, in the order of their keys
//!   scheduler what is being done and why, what the balancers say, what was done
//!   clients   writes, their rate, the longest wait
//! ```
//!
//! Regions that do not fit beside each other go on in further bands; what fits nowhere is counted in the title.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, BorderType, Paragraph};

use super::crowd::Count;
use super::picture::{Kind, Operator, Picture, Region, Store};

/// Columns in front of what is drawn for a store.
const NAME_WIDTH: usize = 12;
/// A region has at most so many columns.
const REGION_WIDTH_MAX: usize = 4;
/// Stores have a colour each, in turn.
const COLOURS: [Color; 6] =
    [Color::Cyan, Color::Green, Color::Magenta, Color::Yellow, Color::Blue, Color::LightRed];
/// Heights of bars, from nothing to all.
const LEVELS: [&str; 9] = [" ", "▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"];

/// One moment of a demo.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Scene {
    pub(super) title: String,
    pub(super) seed: u64,
    /// Since it began.
    pub(super) passed: Duration,
    /// What is being shown now.
    pub(super) act: String,
    pub(super) picture: Picture,
    /// What the clients saw, if there are any.
    pub(super) count: Option<Count>,
}

/// Draws all of it.
pub(super) fn draw(frame: &mut Frame, scene: &Scene) {
    let picture = &scene.picture;
    let area = frame.area();
    let inner = usize::from(area.width.saturating_sub(2));
    let stores = rows(picture.stores.len().max(1));
    let clients = if scene.count.is_some() { 3 } else { 0 };
    // The scheduler has at least four lines, whatever regions would like.
    let taken = 3 + stores + 2 + clients + 6 + 1;
    let space = usize::from(area.height.saturating_sub(taken));
    let bands = Bands::new(picture, inner.saturating_sub(NAME_WIDTH), space);
    let [head, of_stores, of_regions, of_scheduler, of_clients, foot] = Layout::vertical([
        Constraint::Length(3),
        Constraint::Length(stores + 2),
        Constraint::Length(rows(bands.height()) + 2),
        Constraint::Min(3),
        Constraint::Length(clients),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(heading(scene), head);
    frame.render_widget(panel("stores".to_string(), store_lines(picture, inner)), of_stores);
    frame.render_widget(panel(bands.title(), bands.lines(picture)), of_regions);
    let lines = scheduler_lines(picture, usize::from(of_scheduler.height.saturating_sub(2)));
    frame.render_widget(panel("scheduler: what and why".to_string(), lines), of_scheduler);
    if let Some(count) = &scene.count {
        frame.render_widget(
            panel("clients".to_string(), vec![count_line(count, inner)]),
            of_clients,
        );
    }
    frame.render_widget(legend(), foot);
}

fn rows(count: usize) -> u16 {
    u16::try_from(count).unwrap_or(u16::MAX - 4)
}

fn panel(title: String, lines: Vec<Line<'static>>) -> Paragraph<'static> {
    let block = Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(Style::new().fg(Color::DarkGray))
        .title(Span::styled(format!(" {title} "), Style::new().add_modifier(Modifier::BOLD)));
    Paragraph::new(lines).block(block)
}

fn heading(scene: &Scene) -> Paragraph<'static> {
    let clock = format!(" seed {} · {} ", scene.seed, clock(scene.passed));
    let block = Block::bordered()
        .border_type(BorderType::Rounded)
        .border_style(Style::new().fg(Color::Cyan))
        .title(Span::styled(
            format!(" skerry demo {} ", scene.title),
            Style::new().fg(Color::Cyan).add_modifier(Modifier::BOLD),
        ))
        .title(Line::from(clock).right_aligned());
    let act = Style::new().add_modifier(Modifier::BOLD);
    Paragraph::new(Line::from(vec![Span::from("▶ "), Span::styled(scene.act.clone(), act)]))
        .block(block)
}

fn legend() -> Line<'static> {
    let dim = Style::new().fg(Color::DarkGray);
    Line::styled(" █ leads  ▒ follows  ░ is being fed  × is lost      q ends", dim)
}

fn clock(passed: Duration) -> String {
    format!("{:02}:{:02}", passed.as_secs() / 60, passed.as_secs() % 60)
}

fn colour(picture: &Picture, store: u64) -> Color {
    let place = picture.stores.iter().position(|it| it.id == store).unwrap_or(0);
    COLOURS[place % COLOURS.len()]
}

fn state_style(state: &str) -> Style {
    Style::new().fg(match state {
        "Up" => Color::Green,
        "Disconnected" | "Offline" => Color::Yellow,
        "Down" => Color::Red,
        _ => Color::DarkGray,
    })
}

// ---- Stores -----------------------------------------------------------------------------------------

fn store_lines(picture: &Picture, width: usize) -> Vec<Line<'static>> {
    if picture.stores.is_empty() {
        return vec![Line::from(" none yet")];
    }
    let most = |count: fn(&Picture, u64) -> usize| {
        picture.stores.iter().map(|store| count(picture, store.id)).max().unwrap_or(0).max(1)
    };
    let (leaders_most, replicas_most) = (most(Picture::leaders), most(Picture::replicas));
    // Name and state, two words, two numbers.
    let bar_width = width.saturating_sub(NAME_WIDTH + 14 + 2 * 14) / 2;
    let line = |store: &Store| {
        let colour = colour(picture, store.id);
        let (leaders, replicas) = (picture.leaders(store.id), picture.replicas(store.id));
        Line::from(vec![
            name(picture, store.id),
            Span::styled("● ", state_style(&store.state)),
            Span::styled(format!("{:<12}", store.state), state_style(&store.state)),
            Span::from(format!(" leads {leaders:>3} ")),
            Span::styled(bar(leaders, leaders_most, bar_width), Style::new().fg(colour)),
            Span::from(format!("  holds {replicas:>4} ")),
            Span::styled(bar(replicas, replicas_most, bar_width), Style::new().fg(colour)),
        ])
    };
    picture.stores.iter().map(line).collect()
}

fn name(picture: &Picture, store: u64) -> Span<'static> {
    let text = format!(" store {store}");
    Span::styled(format!("{text:<NAME_WIDTH$}"), Style::new().fg(colour(picture, store)))
}

/// A bar of eighths.
fn bar(count: usize, most: usize, width: usize) -> String {
    const PARTS: [&str; 8] = ["", "▏", "▎", "▍", "▌", "▋", "▊", "▉"];
    let eighths = count * width * 8 / most.max(1);
    let text = "█".repeat(eighths / 8) + PARTS[eighths % 8];
    format!("{text:<width$}")
}

// ---- Regions ----------------------------------------------------------------------------------------

/// How regions are laid out: bands of so many, each with a line for every store.
struct Bands {
    regions: usize,
    stores: usize,
    region_width: usize,
    per_band: usize,
    bands: usize,
}

impl Bands {
    /// For `width` columns and `height` lines.
    fn new(picture: &Picture, width: usize, height: usize) -> Bands {
        let (regions, stores) = (picture.regions.len(), picture.stores.len());
        let region_width = (width / regions.max(1)).clamp(1, REGION_WIDTH_MAX);
        let per_band = (width / region_width).max(1);
        // A band is as high as there are stores, with an empty line before the next.
        let fitting = ((height + 1) / (stores + 1)).max(1);
        let bands = regions.div_ceil(per_band).clamp(1, fitting);
        Bands { regions, stores, region_width, per_band, bands }
    }

    fn height(&self) -> usize {
        (self.bands * (self.stores + 1)).saturating_sub(1).max(1)
    }

    fn title(&self) -> String {
        let shown = self.regions.min(self.per_band * self.bands);
        match shown == self.regions {
            true => format!("{} regions, in the order of their keys", self.regions),
            false => format!("the first {shown} of {} regions, by their keys", self.regions),
        }
    }

    fn lines(&self, picture: &Picture) -> Vec<Line<'static>> {
        if picture.regions.is_empty() {
            return vec![Line::from(" none yet")];
        }
        let mut lines = Vec::new();
        for band in picture.regions.chunks(self.per_band).take(self.bands) {
            if !lines.is_empty() {
                lines.push(Line::default());
            }
            for store in &picture.stores {
                let cells = band.iter().map(|region| self.cell(picture, region, store.id));
                let spans = std::iter::once(name(picture, store.id)).chain(cells);
                lines.push(Line::from(spans.collect::<Vec<_>>()));
            }
        }
        lines
    }

    fn cell(&self, picture: &Picture, region: &Region, store: u64) -> Span<'static> {
        let own = Style::new().fg(colour(picture, store));
        let (symbol, style) = match region.replica(store).map(|replica| replica.kind) {
            Some(Kind::Leader) => ("█", own),
            Some(Kind::Follower) => ("▒", own),
            Some(Kind::Fed) => ("░", Style::new().fg(Color::White)),
            Some(Kind::Lost) => ("×", Style::new().fg(Color::Red)),
            None => ("·", Style::new().fg(Color::DarkGray)),
        };
        // Where there is room, regions are parted.
        let gap = usize::from(self.region_width > 1);
        let wide = match symbol {
            "·" => symbol.to_string() + &" ".repeat(self.region_width - 1 - gap),
            symbol => symbol.repeat(self.region_width - gap),
        };
        Span::styled(wide + &" ".repeat(gap), style)
    }
}

// ---- The scheduler ----------------------------------------------------------------------------------

/// What runs takes half of the lines at most, what balancers say comes next, what was done fills the rest.
fn scheduler_lines(picture: &Picture, height: usize) -> Vec<Line<'static>> {
    let mut lines: Vec<Line> = Vec::new();
    let running = picture.operators.len();
    let shown = running.min(height.div_ceil(2));
    for operator in picture.operators.iter().take(shown) {
        lines.push(operator_line("▶", Color::Yellow, operator));
    }
    if running > shown {
        lines.push(Line::from(format!(" … and {} more", running - shown)));
    }
    let dim = Style::new().fg(Color::DarkGray);
    for balancer in picture.balancers.iter().filter(|it| !it.summary.is_empty()) {
        let obstacle = balancer.obstacle.iter().map(|it| format!(" ({it})")).collect::<String>();
        let text = format!(" ○ {}: {}{obstacle}", balancer.name, balancer.summary);
        lines.push(Line::styled(text, dim));
    }
    for operator in &picture.ended {
        let is_done = operator.ending.as_deref() == Some("done");
        let (mark, colour) = if is_done { ("✓", Color::Green) } else { ("✗", Color::Red) };
        lines.push(operator_line(mark, colour, operator));
    }
    lines.truncate(height);
    lines
}

fn operator_line(mark: &'static str, colour: Color, operator: &Operator) -> Line<'static> {
    let all = operator.steps.len();
    let now = match (&operator.ending, operator.steps.get(operator.done)) {
        (Some(ending), _) => ending.clone(),
        (None, step) => format!(
            "{} ({} of {all} steps done)",
            step.map_or("ending", String::as_str),
            operator.done
        ),
    };
    Line::from(vec![
        Span::styled(format!(" {mark} "), Style::new().fg(colour)),
        Span::styled(
            format!("{} of region {}", operator.name, operator.region),
            Style::new().add_modifier(Modifier::BOLD),
        ),
        Span::from(format!(", because {}: {now}", operator.why)),
    ])
}

// ---- Clients ----------------------------------------------------------------------------------------

fn count_line(count: &Count, width: usize) -> Line<'static> {
    let rate = count.rates.last().copied().unwrap_or(0);
    let mut text = format!(
        " {} writes acknowledged, {rate}/s, longest wait {} ms",
        count.acknowledged,
        count.longest.as_millis()
    );
    if count.failed > 0 {
        text += &format!(", {} given up", count.failed);
    }
    if let Some(check) = count.check {
        text += &format!(", {} keys read back, lost: {}", check.keys, check.lost);
    }
    text += "  ";
    let room = width.saturating_sub(text.chars().count() + 1);
    let from = count.rates.len().saturating_sub(room);
    Line::from(vec![
        Span::from(text),
        Span::styled(sparks(&count.rates[from..]), Style::new().fg(Color::Cyan)),
    ])
}

/// Rates as heights.
fn sparks(rates: &[u64]) -> String {
    let most = rates.iter().max().copied().unwrap_or(0).max(1);
    let level = |rate: &u64| LEVELS[usize::try_from(rate * 8 / most).unwrap_or(8)];
    rates.iter().map(level).collect()
}

// ---- As text ----------------------------------------------------------------------------------------

/// The scene in one line, for what is no terminal.
pub(super) fn line(scene: &Scene) -> String {
    let picture = &scene.picture;
    let store = |store: &Store| {
        let state = match &store.state[..] {
            "Up" => String::new(),
            state => format!(" {}", state.to_lowercase()),
        };
        let (leaders, replicas) = (picture.leaders(store.id), picture.replicas(store.id));
        format!("s{}{state} {leaders}/{replicas}", store.id)
    };
    let stores: Vec<String> = picture.stores.iter().map(store).collect();
    let mut text = format!(
        "{:>5.1} s  {} regions, led/held: {}",
        scene.passed.as_secs_f64(),
        picture.regions.len(),
        stores.join(", ")
    );
    let first = picture.operators.first();
    if let Some(first) = first {
        let (count, name, why) = (picture.operators.len(), &first.name, &first.why);
        text += &format!("; {count} under way: {name} of region {}, because {why}", first.region);
    }
    if let Some(count) = &scene.count {
        let rate = count.rates.last().copied().unwrap_or(0);
        text += &format!("; {} writes, {rate}/s", count.acknowledged);
    }
    text
}

#[cfg(test)]
mod tests;
