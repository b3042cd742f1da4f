//! Continuing token sequences: batched, with a cache of keys and values.

mod sampler;

use burn::tensor::Tensor;
use stillhouse_data::lm::{Finish, GenerateRequest, Generated, Watch};

use crate::error::{Result, StudentError};
use crate::kernels::{Kernels, Visibility};
use crate::model::{KeyValueCache, ModelInput};
use crate::weights::LoadedModel;
use sampler::Sampler;

/// Rows that are continued together.
const BATCH_ROWS: usize = 32;

/// Continues prompts; results in the order of the requests.
///
/// Each request draws from random numbers of its own, so its text does not depend on its neighbours. `watch` sees every
/// token as it is made and may end a text.
///
/// # Errors
/// An empty prompt, one longer than the model's context, or a token id beyond its vocabulary: the request is named.
pub fn generate<B: Kernels>(
    model: &LoadedModel<B>,
    requests: &[GenerateRequest],
    watch: &mut Watch<'_>,
) -> Result<Vec<Generated>> {
    for (number, request) in requests.iter().enumerate() {
        check_tokens(model, &format!("prompt {number}"), &request.prompt)?;
    }
    // Neighbours of equal length need the least padding.
    let mut order: Vec<usize> = (0..requests.len()).collect();
    order.sort_by_key(|number| (requests[*number].prompt.len(), requests[*number].sampling.max_tokens));
    let mut results = vec![Generated { tokens: Vec::new(), finish: Finish::Length }; requests.len()];
    for batch in order.chunks(BATCH_ROWS) {
        let rows = batch.iter().map(|number| Row::new(*number, &requests[*number], model.config.context));
        for row in continue_rows(model, rows.collect(), watch) {
            let number = row.number;
            results[number] = row.into_result();
        }
    }
    Ok(results)
}

/// Whether a sequence can be fed to the model at all.
pub(crate) fn check_tokens<B: Kernels>(model: &LoadedModel<B>, what: &str, tokens: &[u32]) -> Result<()> {
    let (context, vocabulary) = (model.config.context, model.config.vocabulary);
    if tokens.is_empty() {
        return Err(StudentError::request(format!("{what} has no tokens; a model needs at least one to go on from")));
    }
    if tokens.len() > context {
        let length = tokens.len();
        return Err(StudentError::request(format!(
            "{what} has {length} tokens, the model's longest sequence is {context}"
        )));
    }
    match tokens.iter().find(|token| **token as usize >= vocabulary) {
        None => Ok(()),
        Some(token) => Err(StudentError::request(format!(
            "{what} holds token {token}, but the model's vocabulary has {vocabulary} tokens; is this its tokenizer?"
        ))),
    }
}

/// One request on its way.
struct Row<'a> {
    number: usize,
    request: &'a GenerateRequest,
    sampler: Sampler<'a>,
    tokens: Vec<u32>,
    /// How many it may make.
    room: usize,
    stopped: bool,
}

impl<'a> Row<'a> {
    fn new(number: usize, request: &'a GenerateRequest, context: usize) -> Self {
        let room = request.sampling.max_tokens.min(context - request.prompt.len());
        let sampler = Sampler::new(&request.sampling, request.seed);
        Self { number, request, sampler, tokens: Vec::new(), room, stopped: false }
    }

    fn is_done(&self) -> bool {
        self.stopped || self.tokens.len() >= self.room
    }

    fn take(&mut self, logits: &[f32], watch: &mut Watch<'_>) {
        let token = self.sampler.next(logits);
        self.tokens.push(token);
        let goes_on = watch(self.number, &self.tokens);
        self.stopped = !goes_on || self.request.sampling.stop_ids.contains(&token);
    }

    fn into_result(self) -> Generated {
        let finish = if self.stopped { Finish::Stop } else { Finish::Length };
        Generated { tokens: self.tokens, finish }
    }
}

fn continue_rows<'a, B: Kernels>(model: &LoadedModel<B>, rows: Vec<Row<'a>>, watch: &mut Watch<'_>) -> Vec<Row<'a>> {
    let device = model.decoder.device();
    let (mut done, mut live): (Vec<Row<'a>>, Vec<Row<'a>>) = rows.into_iter().partition(Row::is_done);
    let longest = live.iter().map(|row| row.request.prompt.len()).max().unwrap_or(0);
    let mut padding: Vec<usize> = live.iter().map(|row| longest - row.request.prompt.len()).collect();
    let mut cache = KeyValueCache::new(model.config.layers);
    let mut input = prompts(&live, &padding, longest);
    let mut cached = longest;
    while !live.is_empty() {
        let logits = last_logits(model, &input, &mut cache);
        for (row, logits) in live.iter_mut().zip(logits.chunks_exact(model.config.vocabulary)) {
            row.take(logits, watch);
        }
        let staying: Vec<usize> = (0..live.len()).filter(|row| !live[*row].is_done()).collect();
        if staying.len() < live.len() {
            cache.keep_rows(&staying, &device);
            padding = staying.iter().map(|row| padding[*row]).collect();
            let (finished, going): (Vec<_>, Vec<_>) = live.into_iter().partition(Row::is_done);
            done.extend(finished);
            live = going;
        }
        input = ModelInput {
            tokens: live.iter().filter_map(|row| row.tokens.last().copied()).collect(),
            positions: padding.iter().map(|pad| (cached - pad) as u32).collect(),
            visibility: Visibility::with_cache(&padding, 1, cached),
        };
        cached += 1;
    }
    done
}

/// The prompts, padded on the left to one length.
fn prompts(rows: &[Row<'_>], padding: &[usize], length: usize) -> ModelInput {
    let (mut tokens, mut positions) = (Vec::new(), Vec::new());
    for (row, pad) in rows.iter().zip(padding) {
        let prompt = &row.request.prompt;
        tokens.extend(std::iter::repeat_n(0, *pad).chain(prompt.iter().copied()));
        positions.extend(std::iter::repeat_n(0, *pad).chain(0..prompt.len() as u32));
    }
    ModelInput { tokens, positions, visibility: Visibility::with_cache(padding, length, 0) }
}

/// Logits of the last position of every row, `[rows × vocabulary]`.
fn last_logits<B: Kernels>(model: &LoadedModel<B>, input: &ModelInput, cache: &mut KeyValueCache<B>) -> Vec<f32> {
    let (rows, time) = (input.visibility.batch(), input.visibility.queries());
    let hidden = model.decoder.hidden(input, &model.rotary, Some(cache));
    let width = hidden.dims()[1];
    let last: Tensor<B, 2> = hidden.reshape([rows, time, width]).narrow(1, time - 1, 1).reshape([rows, width]);
    let logits = model.decoder.logits(last).into_data().convert::<f32>();
    // f32 by the conversion above, so the fallback is never taken.
    logits.into_vec().unwrap_or_default()
}
