//! The owner of a run's state: which stage waits, runs, is done; who gets which resource.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use stillhouse_stage::{Cancel, Class, Event, Failure, How, Needs, StageEvent};
use stillhouse_store::{Digest, History, Key, Store};
use tokio::sync::mpsc::UnboundedSender;

use super::attempt::{self, Finished, Task};
use super::families::{Families, Member};
use super::resources::{Holding, Resources, available_memory};
use super::worker_process::ChildSlot;
use super::{RunOptions, RunSummary, Subscriber};
use crate::experiment::{Experiment, StageId};
use crate::plan::{Decision, Plan, view};
use crate::resolve::references::Definitions;

/// What attempts tell the dispatcher.
pub(crate) enum Message {
    /// The work begins.
    Started { id: StageId, key: Key, why: Vec<String> },
    /// Another run is making the same thing.
    Waiting { id: StageId, holder: String },
    /// The stage says something.
    Said { id: StageId, event: StageEvent },
    /// The attempt ended.
    Ended { id: StageId, result: Result<Finished, Failure>, seconds: f64 },
}

enum State {
    /// So many upstream stages are not done.
    Waiting(usize),
    Running(Running),
    Done,
    Failed,
    Skipped,
}

impl State {
    fn is_open(&self) -> bool {
        matches!(self, Self::Waiting(_) | Self::Running(_))
    }
}

struct Running {
    holding: Holding,
    cancel: Cancel,
    child: ChildSlot,
}

pub(crate) struct Dispatcher<'a> {
    experiment: Arc<Experiment>,
    plan: Arc<Plan>,
    store: Store,
    run_id: String,
    options: Arc<RunOptions>,
    sender: UnboundedSender<Message>,
    subscribers: &'a mut [Box<dyn Subscriber>],
    states: BTreeMap<StageId, State>,
    /// Stages whose upstream is done, in the order they became so.
    ready: Vec<StageId>,
    outputs: BTreeMap<StageId, (Digest, Key)>,
    resources: Resources,
    running: usize,
    /// What each stage needs, asked once.
    needs: BTreeMap<StageId, (Needs, Option<Member>)>,
    families: Families,
    /// Stages of which it was said that others of their family go first.
    held_back: BTreeSet<StageId>,
    /// Whether something became ready or free since stages were last started.
    changed: bool,
    history: History,
    /// Set once nothing new shall start.
    stopping: Option<String>,
    /// Set by the second interrupt: running stages are given up.
    giving_up: bool,
    summary: RunSummary,
    started: Instant,
}

/// What is to be done.
pub(crate) struct Work {
    /// Every stage.
    pub experiment: Experiment,
    /// What becomes of each.
    pub plan: Plan,
    /// How long they took before.
    pub history: History,
}

impl<'a> Dispatcher<'a> {
    pub(crate) fn new(
        work: Work,
        store: Store,
        run_id: &str,
        options: RunOptions,
        sender: UnboundedSender<Message>,
        subscribers: &'a mut [Box<dyn Subscriber>],
    ) -> Self {
        let Work { experiment, plan, history } = work;
        let resources = Resources::new(options.jobs, options.processors, &options.gpus, available_memory());
        Self {
            experiment: Arc::new(experiment),
            plan: Arc::new(plan),
            store,
            run_id: run_id.to_owned(),
            options: Arc::new(options),
            sender,
            subscribers,
            states: BTreeMap::new(),
            ready: Vec::new(),
            outputs: BTreeMap::new(),
            resources,
            running: 0,
            needs: BTreeMap::new(),
            families: Families::default(),
            held_back: BTreeSet::new(),
            changed: true,
            history,
            stopping: None,
            giving_up: false,
            summary: RunSummary::default(),
            started: Instant::now(),
        }
    }

    fn emit(&mut self, event: &Event) {
        if !matches!(event, Event::Stage { said: StageEvent::Progress { .. } | StageEvent::Metrics { .. }, .. })
            && let Ok(line) = serde_json::to_string(event)
        {
            tracing::info!("{line}");
        }
        for subscriber in self.subscribers.iter_mut() {
            subscriber.on(event);
        }
    }

    fn name(&self, id: StageId) -> String {
        self.experiment.graph[id].name.clone()
    }

    /// The first event; stages that the plan found in the store are done from the start.
    pub(crate) fn begin(&mut self) {
        let wanted = self.experiment.wanted(&self.options.only);
        let order = self.experiment.as_in_the_file(wanted.clone());
        self.emit(&Event::RunStarted {
            run: self.run_id.clone(),
            experiment: self.experiment.name.clone(),
            file: self.experiment.file.display().to_string(),
            stages: wanted.len(),
            time: super::now(),
            version: self.options.version.clone(),
            order: order.into_iter().map(|id| self.name(id)).collect(),
        });
        let plan = Arc::clone(&self.plan);
        for id in wanted {
            let upstream = self.experiment.upstream(id);
            let open = upstream.filter(|upstream| !matches!(self.states.get(upstream), Some(State::Done))).count();
            let Some(planned) = plan.stage(id) else { continue };
            if let Decision::Reuse(record) = &planned.decision {
                self.outputs.insert(id, (record.output, record.key));
                self.states.insert(id, State::Done);
                self.summary.reused += 1;
                self.emit(&Event::StageFinished {
                    stage: planned.name.clone(),
                    key: record.key.to_string(),
                    output: record.output.to_string(),
                    how: How::Reused,
                    seconds: record.seconds,
                    metrics: record.metrics.clone(),
                    names: self.experiment.names(id),
                });
                continue;
            }
            self.states.insert(id, State::Waiting(open));
            if open == 0 {
                self.ready.push(id);
            }
        }
    }

    /// Starts what can start now.
    pub(crate) fn start_ready(&mut self) {
        if self.stopping.is_some() || !std::mem::take(&mut self.changed) {
            return;
        }
        let waiting = std::mem::take(&mut self.ready);
        let (needs, members): (Vec<Needs>, Vec<Option<Member>>) = waiting.iter().map(|id| self.needs(*id)).unzip();
        let ready: Vec<(StageId, Option<Member>)> = waiting.into_iter().zip(members).collect();
        let first = self.families.first_of(&ready);
        // Who is held back takes no part in sharing the processors.
        let mut want_processors =
            needs.iter().zip(&first).filter(|(needs, first)| needs.compute && first.is_none()).count();
        let uses_gpus = !self.options.gpus.is_empty() && self.options.device != "cpu";
        let mut left = Vec::new();
        for (((id, member), needs), first) in ready.into_iter().zip(needs).zip(first) {
            if let Some(first) = first {
                self.hold_back(id, first);
                left.push(id);
                continue;
            }
            want_processors -= usize::from(needs.compute);
            match self.resources.take(&needs, uses_gpus, want_processors) {
                Some(holding) => {
                    self.families.started(id, member);
                    self.start(id, &needs, holding);
                }
                None => left.push(id),
            }
        }
        self.ready = left;
    }

    /// Says, once a stage, that another one of its family goes first.
    fn hold_back(&mut self, id: StageId, first: StageId) {
        if self.held_back.insert(id) {
            let event = Event::StageHeldBack { stage: self.name(id), behind: self.name(first) };
            self.emit(&event);
        }
    }

    /// What a stage needs, its family apart.
    fn needs(&mut self, id: StageId) -> (Needs, Option<Member>) {
        let stage = &self.experiment.graph[id];
        let known = self.needs.entry(id).or_insert_with(|| {
            let mut needs = stage.kind.needs(&view(stage, &Definitions::of(stage)));
            let (family, planned) = (needs.family.take(), self.plan.stage(id));
            (needs, family.zip(planned).map(|(family, planned)| Member::of(stage, planned, &family)))
        });
        known.clone()
    }

    fn start(&mut self, id: StageId, needs: &Needs, holding: Holding) {
        let upstream = self.experiment.graph[id].inputs.values().map(|(upstream, _)| *upstream);
        let outputs = upstream.filter_map(|upstream| Some((upstream, *self.outputs.get(&upstream)?))).collect();
        let (cancel, child) = (Cancel::default(), ChildSlot::default());
        let task = Task {
            id,
            experiment: Arc::clone(&self.experiment),
            plan: Arc::clone(&self.plan),
            store: self.store.clone(),
            options: Arc::clone(&self.options),
            run_id: self.run_id.clone(),
            placement: needs.placement,
            device: holding.gpu().map_or_else(|| self.options.device.clone(), str::to_owned),
            threads: holding.threads,
            outputs,
            cancel: cancel.clone(),
            child: child.clone(),
            sender: self.sender.clone(),
            history: self.history.clone(),
        };
        self.states.insert(id, State::Running(Running { holding, cancel, child }));
        self.running += 1;
        tokio::task::spawn_blocking(move || attempt::run(&task));
    }

    pub(crate) fn on_message(&mut self, message: Message) {
        match message {
            Message::Started { id, key, why } => {
                let at = self.started.elapsed().as_secs_f64();
                let event = Event::StageStarted { stage: self.name(id), key: key.to_string(), why, at };
                self.emit(&event);
            }
            Message::Waiting { id, holder } => {
                let event = Event::StageWaiting { stage: self.name(id), holder };
                self.emit(&event);
            }
            Message::Said { id, event: said } => {
                let event = Event::Stage { stage: self.name(id), said };
                self.emit(&event);
            }
            Message::Ended { id, result, seconds } => self.ended(id, result, seconds),
        }
    }

    fn ended(&mut self, id: StageId, result: Result<Finished, Failure>, seconds: f64) {
        self.running -= 1;
        self.changed = true;
        self.families.ended(id);
        let next = if result.is_ok() { State::Done } else { State::Failed };
        if let Some(State::Running(running)) = self.states.insert(id, next) {
            self.resources.give_back(running.holding);
        }
        match result {
            Ok(finished) => self.succeeded(id, finished, seconds),
            Err(failure) => self.failed(id, failure, seconds),
        }
    }

    fn succeeded(&mut self, id: StageId, finished: Finished, seconds: f64) {
        match finished.how {
            How::Built => self.summary.built += 1,
            How::Reused | How::Fetched => self.summary.reused += 1,
            How::Resumed => self.summary.resumed += 1,
        }
        self.outputs.insert(id, (finished.output, finished.key));
        let event = Event::StageFinished {
            stage: self.name(id),
            key: finished.key.to_string(),
            output: finished.output.to_string(),
            how: finished.how,
            seconds: if finished.how == How::Reused { finished.seconds } else { seconds },
            metrics: finished.metrics,
            names: self.experiment.names(id),
        };
        self.emit(&event);
        let experiment = Arc::clone(&self.experiment);
        for downstream in experiment.downstream(id) {
            if let Some(State::Waiting(open)) = self.states.get_mut(&downstream) {
                // Two fields may name the same stage: each is an edge, and each was counted.
                *open -= 1;
                if *open == 0 {
                    self.ready.push(downstream);
                }
            }
        }
    }

    fn failed(&mut self, id: StageId, failure: Failure, seconds: f64) {
        let name = self.name(id);
        if failure.class == Class::Interrupted && self.stopping.is_some() {
            self.states.insert(id, State::Skipped);
            self.skip(id, "stopped".into());
            return;
        }
        self.summary.failed += 1;
        let worst = self.summary.worst.get_or_insert(failure.class);
        if failure.class.exit_code() > worst.exit_code() {
            *worst = failure.class;
        }
        self.emit(&Event::StageFailed { stage: name.clone(), failure, seconds });
        let experiment = Arc::clone(&self.experiment);
        let mut open: Vec<StageId> = experiment.downstream(id).collect();
        while let Some(downstream) = open.pop() {
            if matches!(self.states.get(&downstream), Some(State::Waiting(_))) {
                self.states.insert(downstream, State::Skipped);
                self.skip(downstream, format!("{name} failed"));
                open.extend(experiment.downstream(downstream));
            }
        }
        if !self.options.keep_going && self.stopping.is_none() {
            self.stopping = Some(format!("the run stops because {name} failed; `--keep-going` goes on"));
        }
    }

    fn skip(&mut self, id: StageId, because: String) {
        self.summary.skipped += 1;
        let event = Event::StageSkipped { stage: self.name(id), because };
        self.emit(&event);
    }

    /// The first time stages are asked to reach a good point and stop. The second time they are given up: this process
    /// ends, and with it their workers, whose programs they take along.
    pub(crate) fn interrupt(&mut self) {
        self.giving_up = self.summary.interrupted;
        self.summary.interrupted = true;
        self.stopping = Some("stopped".into());
        for state in self.states.values() {
            if let State::Running(running) = state {
                running.cancel.cancel();
                running.child.signal(libc::SIGTERM);
            }
        }
        if !self.giving_up {
            self.emit(&Event::RunStopping { running: self.running });
        }
    }

    /// The terminal is gone: stages go to a good point, as at the first ctrl-c. A terminal and its shell may both say it, so
    /// that the second time means no more than the first.
    pub(crate) fn hang_up(&mut self) {
        if !self.summary.interrupted {
            self.interrupt();
        }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.giving_up || self.running == 0 && (self.ready.is_empty() || self.stopping.is_some())
    }

    /// The last event.
    pub(crate) fn finish(mut self) -> RunSummary {
        let left: Vec<StageId> = self.states.iter().filter(|(_, state)| state.is_open()).map(|(id, _)| *id).collect();
        let because = self.stopping.clone().unwrap_or_default();
        for id in left {
            self.skip(id, because.clone());
        }
        self.summary.seconds = self.started.elapsed().as_secs_f64();
        let RunSummary { built, reused, resumed, failed, skipped, seconds, interrupted, worst: _ } = self.summary;
        let run = self.run_id.clone();
        self.emit(&Event::RunFinished { built, reused, resumed, failed, skipped, seconds, run, interrupted });
        self.summary
    }
}
