//! What a worker knows of the jobs whose batches it gets: spec, recipe, and the model, ready to run.
//!
//! Asked by intake for every batch. The spec is read from the job's output, not from the message; the
//! model is loaded only if message, spec and file agree on its digest. At most [`MAX_MODELS`] models are
//! kept loaded; loading happens on a blocking thread.

mod shared;

use crate::{
    model::{self, Device, GraphPasses, LoadedModel, Model, ModelError, verdicts::Verdicts},
    preprocess::{Limits, Recipe},
};
use shared::Shared;
use std::{
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::Arc,
};
use tokio::sync::Mutex;
use trawl_common::{
    batch::BatchDescriptor,
    bundle::BundleSpec,
    chance,
    disposition::Failure,
    job::{JobId, JobSpec, Precision},
    location::Location,
    model_file::{self, ModelFile},
    offload::offload,
    results::{OutputLayout, engine::Engine, schema::Columns},
    storage::{
        Stores,
        probe::{ConditionalPut, probe},
    },
};

/// Models that stay loaded, the latest used first: two jobs may take turns on a lane; more would fill the
/// memory of a device.
const MAX_MODELS: usize = 2;

/// Jobs whose spec is remembered.
const MAX_JOBS: usize = 64;

/// A job spec of more bytes is not ours.
const MAX_SPEC_BYTES: u64 = 1 << 20;

/// Everything that working on a job's batches needs.
pub struct JobContext {
    /// The spec.
    pub spec: JobSpec,
    /// Where its output is.
    pub layout: OutputLayout,
    /// What relative keys start from.
    pub base_dir: PathBuf,
    /// How its images become pixels.
    pub recipe: Recipe,
    /// The columns of its parts.
    pub columns: Columns,
    /// Its model.
    pub model: Arc<LoadedModel>,
    /// What a create-only put to its output is worth.
    pub conditional_put: ConditionalPut,
    /// Whether the output is still this submission's, as it was read last.
    current: Shared<bool>,
}

/// How models are loaded: real ones by [`TorchLoader`], fakes in tests.
pub trait Loader: Send + Sync {
    /// Loads a bundle, which `spec` was read from. Blocking.
    ///
    /// # Errors
    /// [`ModelError`] in words for the person who made the bundle.
    fn load(
        &self,
        file: &ModelFile,
        spec: &BundleSpec,
        precision: Precision,
    ) -> Result<Vec<Box<dyn Model>>, ModelError>;

    /// What will run it, for the parts' footers.
    fn engine(&self, precision: Precision) -> Engine {
        let precision = format!("{precision:?}").to_lowercase();
        Engine { trawl: env!("CARGO_PKG_VERSION").to_owned(), precision, ..Engine::default() }
    }
}

/// Loads models onto the worker's devices, through libtorch.
pub struct TorchLoader {
    /// One replica on each.
    pub devices: Vec<Device>,
    /// Whether their graphs are made faster.
    pub graph_passes: GraphPasses,
    /// What earlier comparisons said.
    pub verdicts: Verdicts,
}

impl Loader for TorchLoader {
    fn load(
        &self,
        file: &ModelFile,
        spec: &BundleSpec,
        precision: Precision,
    ) -> Result<Vec<Box<dyn Model>>, ModelError> {
        let load = |device| {
            let verdict = self.verdicts.on(&file.sha256, device);
            model::load(&file.path, spec, device, precision, self.graph_passes, Some(&verdict))
                .map(|m| Box::new(m) as Box<dyn Model>)
        };
        self.devices.iter().map(|device| load(*device)).collect()
    }

    fn engine(&self, precision: Precision) -> Engine {
        let shown: Vec<String> = self.devices.iter().map(ToString::to_string).collect();
        Engine {
            trawl: env!("CARGO_PKG_VERSION").to_owned(),
            torch: model::torch_version(),
            device: shown.join(","),
            precision: format!("{precision:?}").to_lowercase(),
        }
    }
}

/// The jobs this worker has met.
pub struct Jobs {
    stores: Arc<Stores>,
    loader: Arc<dyn Loader>,
    cache_dir: PathBuf,
    limits: Limits,
    /// A bundle that was obtained and verified before the pipeline began, by `run`.
    at_hand: Option<ModelFile>,
    known: Mutex<Vec<Arc<JobContext>>>,
    /// Held while a ledger is rebuilt: a wipe is noticed by every batch in hand at once.
    pub rebuilding: Mutex<()>,
    /// Stores whose create-only put was tried out.
    probed: Mutex<HashMap<String, ConditionalPut>>,
    /// Held while a model loads, so that two batches of a new job load it once.
    models: Mutex<Vec<(Precision, Arc<LoadedModel>)>>,
}

impl Jobs {
    /// No jobs yet; a model whose file is `at_hand` is not fetched again.
    pub fn new(
        stores: Arc<Stores>,
        loader: Arc<dyn Loader>,
        cache_dir: PathBuf,
        limits: Limits,
        at_hand: Option<ModelFile>,
    ) -> Self {
        Self {
            stores,
            loader,
            cache_dir,
            limits,
            at_hand,
            known: Mutex::default(),
            models: Mutex::default(),
            probed: Mutex::default(),
            rebuilding: Mutex::default(),
        }
    }

    /// The job of a batch, read and loaded at the first of them; `None` if the output is another job's by now,
    /// submitted after the batch's own was removed.
    ///
    /// # Errors
    /// [`Failure`] if the spec is not there or not readable, if message, spec and model file do not agree,
    /// or if the model does not load. Cancel safe.
    pub async fn get(&self, batch: &BatchDescriptor) -> Result<Option<Arc<JobContext>>, Failure> {
        let BatchDescriptor { job, out, model_sha256, created_unix_ms, .. } = batch;
        let same = |c: &Arc<JobContext>| {
            c.spec.job == *job && c.spec.out == *out && c.spec.created_unix_ms == *created_unix_ms
        };
        let known = self.known.lock().await.iter().find(|c| same(c)).cloned();
        let context = match known {
            Some(context) => context,
            None => self.prepare(job, out).await?,
        };
        if !same(&context) {
            return Ok(None);
        }
        if context.spec.model.sha256 != *model_sha256 {
            return Err(Failure::Job(format!(
                "the message names model {model_sha256}, the spec of job `{job}` names {}",
                context.spec.model.sha256
            )));
        }
        Ok(Some(context))
    }

    /// The names of the loaded models, the latest used first; `None` while there are none, or one is being loaded.
    pub fn loaded(&self) -> Option<String> {
        let models = self.models.try_lock().ok()?;
        let names: Vec<&str> = models.iter().map(|(_, model)| model.spec.name.as_str()).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// The spec of a job, from its output. Cancel safe.
    ///
    /// # Errors
    /// [`Failure`] if it is not there, not readable, or another job's.
    pub async fn spec(&self, job: &JobId, out: &str) -> Result<(OutputLayout, JobSpec), Failure> {
        let place = Location::parse(out, Path::new("/")).map_err(|e| Failure::Job(e.to_string()))?;
        let layout = OutputLayout::new(place.clone());
        let json = self.stores.open(&place).await.get(&layout.job(), MAX_SPEC_BYTES).await?.bytes;
        let spec =
            JobSpec::parse(&json).map_err(|e| Failure::Job(trawl_common::disposition::describe(&e)))?;
        if spec.job != *job {
            return Err(Failure::Job(format!("`{out}` belongs to job `{}`, not to `{job}`", spec.job)));
        }
        Ok((layout, spec))
    }

    /// Whether the output is still that of the submission that the batch was computed for. One small read, begun
    /// before each put and after its batch was computed: an output that is removed and submitted again has the same
    /// name. Batches that ask at the same time share it. Cancel safe.
    ///
    /// # Errors
    /// What the store gives, other than that the output is gone.
    pub async fn is_current(&self, context: &JobContext) -> Result<bool, Failure> {
        let JobSpec { job, out, created_unix_ms, .. } = &context.spec;
        let read = || async {
            match self.spec(job, out).await {
                Ok((_, spec)) => Ok(spec.created_unix_ms == *created_unix_ms),
                Err(Failure::Storage(error)) if error.is_not_found() => Ok(false),
                Err(failure) => Err(failure),
            }
        };
        context.current.read(read).await
    }

    async fn prepare(&self, job: &JobId, out: &str) -> Result<Arc<JobContext>, Failure> {
        let (layout, spec) = self.spec(job, out).await?;
        let model = self.model(&spec).await?;
        let columns = Columns::of_job(&model.spec.heads, &model.replicas[0].shapes(), &spec.carry);
        let columns = columns.map_err(Failure::Job)?;
        let recipe = Recipe {
            input: model.spec.input.clone(),
            decode: spec.decode,
            truncated: spec.truncated,
            orient: spec.orient,
            limits: self.limits,
        };
        let base_dir = PathBuf::from(&spec.base_dir);
        let conditional_put = self.conditional_put(&layout, &spec).await?;
        let current = Shared::default();
        let context =
            Arc::new(JobContext { spec, layout, base_dir, recipe, columns, model, conditional_put, current });
        let mut known = self.known.lock().await;
        known.retain(|c| c.spec.job != *job || c.spec.out != out);
        known.truncate(MAX_JOBS - 1);
        known.insert(0, context.clone());
        Ok(context)
    }

    /// What a create-only put to the output's store is worth, tried out once per store. A folder's is ours and
    /// needs no trial.
    async fn conditional_put(
        &self,
        layout: &OutputLayout,
        spec: &JobSpec,
    ) -> Result<ConditionalPut, Failure> {
        if layout.root().is_local() {
            return Ok(ConditionalPut::Real);
        }
        let store = self.stores.open(layout.root()).await;
        let mut probed = self.probed.lock().await;
        if let Some(known) = probed.get(store.name()) {
            return Ok(known.clone());
        }
        // Two containers may both be process 1 and begin in the same millisecond; by the same name they would take
        // each other for one store's two winners.
        let (job, own) = (&spec.job, chance::number());
        let found = probe(&*store, |round| layout.probe(&format!("{job}-{own:016x}-{round}"))).await?;
        match &found {
            ConditionalPut::Real => tracing::debug!(store = store.name(), "create-only puts have one winner"),
            ConditionalPut::Unreliable { reason } => tracing::warn!(
                store = store.name(),
                reason,
                "this store's create-only put cannot be relied on; parts are put after a look instead: there is \
                 one part a batch, but of two workers at the same batch the later one's may stand"
            ),
        }
        probed.insert(store.name().to_owned(), found.clone());
        Ok(found)
    }

    /// The model of `spec`, loaded and warm. Cancel safe.
    ///
    /// # Errors
    /// [`Failure`] if it is not to be had, is another one, or does not load.
    pub async fn model(&self, spec: &JobSpec) -> Result<Arc<LoadedModel>, Failure> {
        let mut models = self.models.lock().await;
        let same = |(precision, model): &(Precision, Arc<LoadedModel>)| {
            *precision == spec.precision && model.sha256 == spec.model.sha256
        };
        if let Some(place) = models.iter().position(same) {
            let entry = models.remove(place);
            models.insert(0, entry);
            return Ok(models[0].1.clone());
        }
        let began = std::time::Instant::now();
        let file = match &self.at_hand {
            Some(file) if file.sha256 == spec.model.sha256 => file.clone(),
            _ => {
                let place = |text: &str| {
                    Location::parse(text, Path::new("/")).map_err(|e| Failure::Job(e.to_string()))
                };
                let (place, out) = (place(&spec.model.location)?, place(&spec.out)?);
                model_file::of_job(&self.stores, spec, &place, &out, &self.cache_dir).await?
            }
        };
        let (loader, precision) = (self.loader.clone(), spec.precision);
        let loading = offload(move || {
            let load = AssertUnwindSafe(|| load(&*loader, &file, precision));
            catch_unwind(load)
                .map_err(|_| Failure::Model("loading it panicked, as the log above says".into()))
        });
        let model = loading.await??;
        let model = Arc::new(model);
        tracing::info!(
            model.name = %model.spec.name, model.sha256 = %model.sha256,
            duration_ms = began.elapsed().as_millis() as u64, "model ready"
        );
        models.truncate(MAX_MODELS - 1);
        models.insert(0, (precision, model.clone()));
        // A remembered job would keep its evicted model in memory; it is read again if it comes back.
        let kept: Vec<_> = models.iter().map(|(_, model)| model.clone()).collect();
        drop(models);
        self.known.lock().await.retain(|c| kept.iter().any(|model| Arc::ptr_eq(model, &c.model)));
        Ok(model)
    }
}

fn load(loader: &dyn Loader, file: &ModelFile, precision: Precision) -> Result<LoadedModel, Failure> {
    let spec = BundleSpec::read(&file.path).map_err(|e| Failure::Model(e.to_string()))?;
    let replicas = loader.load(file, &spec, precision).map_err(|e| Failure::Model(e.to_string()))?;
    let (sha256, variant) = (file.sha256.clone(), format!("{} {precision:?}", file.sha256));
    let engine = loader.engine(precision);
    Ok(LoadedModel { replicas, spec, sha256, variant, engine })
}
