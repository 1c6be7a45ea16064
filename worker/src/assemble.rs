//! Puts a pipeline together from its flags: devices, threads, stages.
//!
//! Between the command line and the pipeline, for `serve` and `run` alike.

use crate::{
    ceilings::Lanes,
    cli::{ComputeArgs, DeviceChoice},
    jobs::{Jobs, Loader, TorchLoader},
    model::{Device, ModelError, cuda, network, verdicts::Verdicts},
    pipeline::{
        Pipeline,
        fetch::Fetcher,
        in_hand::InHand,
        knees::Knees,
        meters::Meters,
        pool::{PoolSettings, PoolThreads, THREADS_PER_DEVICE},
        solo::Room,
        start_pool,
        tail::Stalled,
    },
};
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use trawl_common::{
    broker::Broker, chance, job::QueueName, ledger::Ledger, model_file::ModelFile, planning::feed::Ready,
    storage::Stores,
};

/// The seams a pipeline stands on.
pub struct Seams {
    /// The work list.
    pub broker: Arc<dyn Broker>,
    /// Progress.
    pub ledger: Arc<dyn Ledger>,
    /// Objects.
    pub stores: Arc<Stores>,
    /// This worker's name, as the broker's end of it knows it.
    pub worker: String,
    /// Its counters, which can be looked at before there is a pipeline.
    pub meters: Arc<Meters>,
}

/// Settles on devices and makes them usable. Must run before the first forward pass, once a process.
///
/// # Errors
/// [`ModelError::Device`] if a device was asked for that is not there.
pub fn devices(args: &ComputeArgs) -> Result<Vec<Device>, ModelError> {
    network::prepare_process();
    let mut devices = Vec::new();
    for choice in &args.device {
        match choice {
            DeviceChoice::Given(device) => devices.push(*device),
            // A machine with the driver's device file is worth the load; any other is a CPU machine.
            DeviceChoice::Auto if std::path::Path::new("/dev/nvidia0").exists() => {
                match cuda::load(args.cuda_lib.as_deref()) {
                    Ok(()) => devices.extend((0..network::cuda_devices()).map(Device::Cuda)),
                    Err(error) => {
                        tracing::warn!(%error, "there is a GPU that cannot be used; going on with the CPU");
                    }
                }
            }
            DeviceChoice::Auto => {}
        }
    }
    if devices.is_empty() {
        devices.push(Device::Cpu);
    }
    let cuda_wanted = devices.iter().any(|device| *device != Device::Cpu);
    if cuda_wanted && devices.contains(&Device::Cpu) {
        return Err(ModelError::Device(
            "a worker runs on the CPU or on CUDA devices, not on both: start two workers".into(),
        ));
    }
    if cuda_wanted {
        cuda::load(args.cuda_lib.as_deref())?;
        let there = network::cuda_devices();
        if let Some(Device::Cuda(n)) = devices.iter().find(|d| matches!(d, Device::Cuda(n) if *n >= there)) {
            return Err(ModelError::Device(format!(
                "cuda:{n} was asked for and this machine has {there} CUDA device(s): check nvidia-smi, or use --device cpu"
            )));
        }
    }
    Ok(devices)
}

/// A pipeline that is ready to serve `prefetch` batches at once, and the threads that it computes on. `at_hand`: a bundle that is here
/// and verified already.
pub fn pipeline(
    args: &ComputeArgs,
    devices: Vec<Device>,
    prefetch: u16,
    queue: QueueName,
    seams: Seams,
    at_hand: Option<ModelFile>,
) -> (Pipeline, PoolThreads) {
    let on_cpu = devices == [Device::Cpu];
    let settings = PoolSettings {
        threads: args.thread_count(),
        micro_batch: args.micro_batch_rule(&devices),
        forward_in_pool: on_cpu,
        devices: if on_cpu { 0 } else { devices.len() },
    };
    let shown: Vec<String> = devices.iter().map(ToString::to_string).collect();
    let cache = args.cache_dir();
    // Passes that do more make another size the best.
    let passes = format!("{:?} {}", args.graph_passes, env!("TRAWL_SHIM_DIGEST"));
    let knees = Knees::of(&cache, format!("{} x{} {passes}", shown.join(","), settings.threads));
    let (graph_passes, verdicts) = (args.graph_passes, Verdicts::of(&cache));
    let loader: Arc<dyn Loader> = Arc::new(TorchLoader { devices, graph_passes, verdicts });
    let meters = seams.meters;
    meters.set_lanes(Lanes {
        threads: settings.threads,
        devices: settings.devices * THREADS_PER_DEVICE,
        // The fetch stage says by itself how many it reads.
        fetches: 1,
        batches: usize::from(prefetch),
    });
    let (pool, threads) = start_pool(settings, knees, meters.clone());
    let pipeline = Pipeline {
        jobs: Arc::new(Jobs::new(seams.stores.clone(), loader, cache, args.image_limits(), at_hand)),
        fetcher: Arc::new(Fetcher::new(seams.stores.clone(), args.fetch_limits(), meters.clone())),
        broker: seams.broker,
        ledger: seams.ledger,
        stores: seams.stores,
        pool,
        meters,
        queue,
        worker: seams.worker,
        attempts: Arc::default(),
        finished: watch::Sender::new(0),
        room: Room::default(),
        reclaim_after: None,
        ready: Ready::Share { prefetch },
        stalled: Stalled::default(),
        begun: None,
        in_hand: InHand::default(),
        device_lost: CancellationToken::new(),
        #[cfg(any(test, feature = "testing"))]
        order: crate::pipeline::settle::SettleOrder::default(),
    };
    (pipeline, threads)
}

/// Host, process and a random part: two containers may both be process 1 of a host of the same name.
pub fn worker_name() -> String {
    let random = chance::number();
    format!("{}-{}-{:08x}", host_name(), std::process::id(), random & 0xffff_ffff)
}

/// The host's name without what a log or a key could choke on; `worker` if it has none.
pub fn host_name() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.trim().chars().filter(char::is_ascii_graphic).take(64).collect();
    if host.is_empty() { "worker".to_owned() } else { host }
}
