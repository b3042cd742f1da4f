//! One try at a stage, on a thread of its own: claim, look again, work, commit.

mod folder;
mod lease_watch;
mod voice;

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;
use stillhouse_stage::{Cancel, Context, Failure, How, Outcome, Placement, Recipe, WorkOrder};
use stillhouse_store::{Digest, History, Key, Lease, LeaseOwner, Lookup, Published, RECORD_FORMAT, Record, Store};
use tokio::sync::mpsc::UnboundedSender;

use super::RunOptions;
use super::dispatcher::Message;
use super::worker_process::{self, ChildSlot};
use crate::experiment::{Experiment, Stage, StageId};
use crate::files::Files;
use crate::plan::{Plan, PlannedStage, part_digest, recipe_of};
use crate::remarks::work_order;
use crate::why::Explainer;
use crate::worker;
use folder::Attempt;
use lease_watch::LeaseWatch;
use voice::Voice;

/// How often a waiting attempt looks whether the other run is done.
const POLL: Duration = Duration::from_millis(50);

/// Everything that an attempt needs to know.
pub(crate) struct Task {
    pub(crate) id: StageId,
    pub(crate) experiment: Arc<Experiment>,
    pub(crate) plan: Arc<Plan>,
    pub(crate) store: Store,
    pub(crate) options: Arc<RunOptions>,
    pub(crate) run_id: String,
    pub(crate) placement: Placement,
    pub(crate) device: String,
    pub(crate) threads: usize,
    /// Outputs and keys of the stages that it reads.
    pub(crate) outputs: BTreeMap<StageId, (Digest, Key)>,
    pub(crate) cancel: Cancel,
    pub(crate) child: ChildSlot,
    pub(crate) sender: UnboundedSender<Message>,
    /// The results there were when the run began.
    pub(crate) history: History,
}

/// What became of it.
pub(crate) struct Finished {
    pub(crate) key: Key,
    pub(crate) output: Digest,
    pub(crate) how: How,
    pub(crate) seconds: f64,
    pub(crate) metrics: serde_json::Value,
}

impl Finished {
    fn of(record: Record, how: How) -> Self {
        Self { key: record.key, output: record.output, how, seconds: record.seconds, metrics: record.metrics }
    }
}

/// Makes the attempt and tells the dispatcher how it ended.
pub(crate) fn run(task: &Task) {
    let started = Instant::now();
    let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| task.attempt()));
    let result = ran.unwrap_or_else(|_| Err(Failure::internal("a fault of stillhouse ended the attempt")));
    let seconds = started.elapsed().as_secs_f64();
    // A dispatcher that is gone needs no answer.
    _ = task.sender.send(Message::Ended { id: task.id, result, seconds });
}

impl Task {
    fn stage(&self) -> &Stage {
        &self.experiment.graph[self.id]
    }

    fn attempt(&self) -> Result<Finished, Failure> {
        let planned = self.plan.stage(self.id).ok_or_else(|| Failure::internal("a stage without a plan"))?;
        let recipe = self.recipe(planned)?;
        let key = recipe.key();
        if let Some(record) = self.look_up(&key)? {
            return Ok(Finished::of(record, How::Reused));
        }
        let lease = Arc::new(self.claim(&key)?);
        if let Some(record) = self.look_up(&key)? {
            return Ok(Finished::of(record, How::Reused));
        }
        _ = self.sender.send(Message::Started { id: self.id, key, why: self.why(planned, &recipe, key) });
        let started = Instant::now();
        self.check_inputs()?;
        let attempt = Attempt::create(&self.store, key)?;
        let order = self.order(planned, &recipe, attempt.folder.clone())?;
        let watch = LeaseWatch::start(&lease, &self.cancel, &self.child);
        let outcome = self.execute(order);
        drop(watch);
        attempt.keep_log(&self.run_id, &self.stage().name);
        if !lease.still_held() {
            return Err(Failure::environment(format!(
                "the lease of {} was taken away while it ran",
                self.stage().name
            ))
            .hint("another program removed it from the store's `leases/`; run again"));
        }
        let outcome = outcome?;
        self.check_files(planned)?;
        self.commit(recipe, key, &attempt, outcome, started.elapsed().as_secs_f64())
    }

    fn recipe(&self, planned: &PlannedStage) -> Result<Recipe, Failure> {
        if let Some(recipe) = &planned.recipe {
            return Ok(recipe.clone());
        }
        let mut inputs = BTreeMap::new();
        let mut known = HashMap::new();
        for (path, (upstream, parts)) in &self.stage().inputs {
            let Some((output, _)) = self.outputs.get(upstream) else {
                return Err(Failure::internal("a stage started before what it reads was made"));
            };
            inputs.insert(path.clone(), part_digest(&self.store, *output, parts, &mut known)?);
        }
        Ok(recipe_of(self.stage(), inputs, &planned.files))
    }

    fn look_up(&self, key: &Key) -> Result<Option<Record>, Failure> {
        match self.store.lookup(key)? {
            Lookup::Found(record) => Ok(Some(record)),
            Lookup::Missing => Ok(None),
            Lookup::Broken { reason } => {
                tracing::warn!(stage = self.stage().name, %key, reason, "a damaged result is made again");
                Ok(None)
            }
        }
    }

    /// Waits until the key is ours to make, or somebody else made it (the caller looks).
    fn claim(&self, key: &Key) -> Result<Lease, Failure> {
        let owner = LeaseOwner {
            run: self.run_id.clone(),
            host: self.options.host.clone(),
            pid: std::process::id(),
            stage: self.stage().name.clone(),
        };
        let name = key.to_string();
        let mut told = false;
        loop {
            if let Some(lease) = self.store.lease(&name, &owner)? {
                return Ok(lease);
            }
            if self.cancel.is_cancelled() {
                return Err(Failure::interrupted());
            }
            if !told && let Some(holder) = self.store.lease_holder(&name)? {
                // Another stage of this run that happens to ask for the same is no news.
                if holder.run != self.run_id {
                    let holder = format!("run {} on {} (process {})", holder.run, holder.host, holder.pid);
                    _ = self.sender.send(Message::Waiting { id: self.id, holder });
                }
                told = true;
            }
            std::thread::sleep(POLL);
        }
    }

    fn why(&self, planned: &PlannedStage, recipe: &Recipe, key: Key) -> Vec<String> {
        let mut known = planned.clone();
        known.recipe = Some(recipe.clone());
        known.key = Some(key);
        known.decision = crate::plan::Decision::Run;
        // An explanation that cannot be read is no reason not to work.
        let explainer = Explainer::new(&self.plan, &self.experiment, &self.store, self.history.clone());
        match explainer.why(&known) {
            Ok(comparison) => comparison.lines(),
            Err(error) => vec![format!("(cannot tell why: {error})")],
        }
    }

    fn order(&self, planned: &PlannedStage, recipe: &Recipe, attempt: PathBuf) -> Result<WorkOrder, Failure> {
        let output = |upstream| self.outputs.get(&upstream).map(|(output, _)| *output);
        let order = WorkOrder {
            device: self.device.clone(),
            threads: self.threads,
            offline: self.options.offline,
            attempt: attempt.clone(),
            run: self.run_id.clone(),
            ..work_order(&self.experiment, planned, recipe, output, &self.store)
        };
        worker::write_order(&order)?;
        Ok(order)
    }

    fn execute(&self, order: WorkOrder) -> Result<Outcome, Failure> {
        if self.cancel.is_cancelled() {
            return Err(Failure::interrupted());
        }
        let sink = Arc::new(Voice::new(self.id, self.sender.clone()));
        let mut outcome = match self.placement {
            Placement::Inline => {
                let context = Context::new(order, self.store.clone(), sink.clone(), self.cancel.clone());
                worker::execute(&context, self.options.kinds)?
            }
            Placement::Worker => worker_process::run(&self.options.worker, order, &*sink, &self.child, &self.cancel)?,
        };
        outcome.resumed |= sink.resumed.load(Ordering::Relaxed);
        Ok(outcome)
    }

    /// Reads what the stage is about to read: a damaged blob must not become part of a new result. It is set aside, so that
    /// the next run makes it again.
    fn check_inputs(&self) -> Result<(), Failure> {
        for (upstream, parts) in self.stage().inputs.values() {
            let Some((output, _)) = self.outputs.get(upstream) else { continue };
            let Some(tree) = self.store.tree(output)? else { continue };
            let read = if parts.is_empty() { tree } else { tree.part(parts) };
            for entry in read.entries() {
                if !self.store.check_blob(&entry.digest)? {
                    let name = &self.experiment.graph[*upstream].name;
                    return Err(Failure::environment(format!(
                        "`{}` of {name} was damaged in the store and is set aside",
                        entry.path
                    ))
                    .hint("run again: it will be made again"));
                }
            }
        }
        Ok(())
    }

    /// A file that changed while the stage read it would give a result that its key does not describe.
    fn check_files(&self, planned: &PlannedStage) -> Result<(), Failure> {
        let mut files = Files::default();
        for (path, file) in &self.stage().files {
            let now = files.digest(file, &self.store).ok().map(|now| now.digest);
            if now != planned.files.get(path).map(|planned| planned.digest) {
                return Err(Failure::input(format!("{} changed while {} ran", file.path.display(), self.stage().name))
                    .hint("run again: the new content has a key of its own"));
            }
        }
        Ok(())
    }

    fn commit(
        &self,
        recipe: Recipe,
        key: Key,
        attempt: &Attempt<'_>,
        outcome: Outcome,
        seconds: f64,
    ) -> Result<Finished, Failure> {
        let (output, _) = self.store.put_tree(&attempt.folder.join("out"))?;
        let stage = self.stage();
        let inputs: serde_json::Map<String, serde_json::Value> = stage
            .inputs
            .iter()
            .filter_map(|(path, (upstream, _))| {
                let (output, key) = self.outputs.get(upstream)?;
                let name = &self.experiment.graph[*upstream].name;
                Some((path.clone(), json!({ "stage": name, "key": key, "output": output })))
            })
            .collect();
        let how = if outcome.resumed { How::Resumed } else { How::Built };
        let record = Record {
            format: RECORD_FORMAT,
            key,
            kind: recipe.kind.clone(),
            revision: recipe.revision,
            stage: stage.name.clone(),
            recipe: recipe.text(),
            output,
            metrics: outcome.metrics,
            provenance: json!({
                "experiment": self.experiment.name,
                "version": self.options.version,
                "host": self.options.host,
                "how": how,
                "inputs": inputs,
                "names": self.experiment.names(self.id),
                "stage": outcome.provenance,
            }),
            created: super::now(),
            seconds,
            run: self.run_id.clone(),
        };
        let finished = Finished::of(record.clone(), how);
        Ok(match self.store.publish(record)? {
            Published::Won => finished,
            // A damaged result that was made again finds its old record whole: the work was done here all the same.
            Published::Lost(first) if first.output == finished.output => finished,
            Published::Lost(first) => Finished::of(first, How::Reused),
        })
    }
}
