//! Gives the fuzz targets the run path to libtorch, which the worker links; its own link arguments do not reach here.

fn main() {
    println!("cargo:rerun-if-env-changed=LIBTORCH");
    if let Ok(libtorch) = std::env::var("LIBTORCH")
        && let Ok(folder) = std::path::Path::new(&libtorch).join("lib").canonicalize()
    {
        println!("cargo:rustc-link-arg=-Wl,-rpath,{}", folder.display());
    }
}
