"""Names: which package brings a module, and which of conda's packages is which on PyPI.

Two tables made by hand of what people use. A module that is not here is not guessed at: a package of the same name on
an index may be anybody's.
"""

from __future__ import annotations

from types import MappingProxyType

#: Modules whose package has another name.
RENAMED = MappingProxyType(
    {
        "attr": "attrs",
        "Bio": "biopython",
        "bs4": "beautifulsoup4",
        "community": "python-louvain",
        "Crypto": "pycryptodome",
        "cv2": "opencv-python-headless",
        "dateutil": "python-dateutil",
        "docx": "python-docx",
        "dotenv": "python-dotenv",
        "faiss": "faiss-cpu",
        "fitz": "pymupdf",
        "git": "gitpython",
        "hydra": "hydra-core",
        "igraph": "igraph",
        "imblearn": "imbalanced-learn",
        "jose": "python-jose",
        "jwt": "pyjwt",
        "Levenshtein": "levenshtein",
        "magic": "python-magic",
        "MySQLdb": "mysqlclient",
        "mpl_toolkits": "matplotlib",
        "OpenSSL": "pyopenssl",
        "osgeo": "gdal",
        "PIL": "pillow",
        "pl_bolts": "lightning-bolts",
        "pptx": "python-pptx",
        "psycopg2": "psycopg2-binary",
        "pylab": "matplotlib",
        "pytorch_lightning": "pytorch-lightning",
        "pywt": "pywavelets",
        "rdkit": "rdkit",
        "serial": "pyserial",
        "skimage": "scikit-image",
        "sklearn": "scikit-learn",
        "skopt": "scikit-optimize",
        "sentence_transformers": "sentence-transformers",
        "socks": "pysocks",
        "tables": "tables",
        "tensorflow_datasets": "tensorflow-datasets",
        "tensorflow_hub": "tensorflow-hub",
        "tensorflow_probability": "tensorflow-probability",
        "umap": "umap-learn",
        "usb": "pyusb",
        "wx": "wxpython",
        "xlsxwriter": "xlsxwriter",
        "yaml": "pyyaml",
        "zmq": "pyzmq",
    }
)
#: Modules whose package has their name.
SAME = frozenset(
    """accelerate aiohttp albumentations altair anndata astropy autograd bokeh boto3 cartopy catboost category_encoders
    cloudpickle colorama cupy cvxpy cycler cython dash dask datasets datashader deap diffusers dill distributed einops
    emcee evaluate fastai fastapi fastparquet fiona flask flax folium fsspec gensim geopandas geopy graphviz
    gspread gym gymnasium h5py hdbscan holoviews hvplot imageio ipywidgets jax jaxlib joblib keras
    librosa lifelines lightgbm lightning lime llvmlite lmfit lxml mahotas matplotlib mlflow mlxtend mne more_itertools
    mpmath msgpack mypy nbformat nbconvert netCDF4 networkx nibabel nilearn nltk numba numexpr numpy onnx onnxruntime
    openai openpyxl optax optuna orjson pandas pandera papermill paramiko patsy peft pingouin pint plotly plotnine
    polars prophet psutil py7zr pyarrow pycaret pydantic pydicom pygments pymc pymc3 pymongo
    pymysql pyod pyproj pyspark pytest qiskit rasterio ray redis regex requests rich safetensors scanpy scipy
    seaborn selenium sentencepiece shap shapely simpy six skforecast sktime spacy sqlalchemy statsmodels streamlit sympy
    tabulate tensorboard tensorflow textblob theano tifffile timm tokenizers toolz torch torchaudio torchmetrics
    torchtext torchvision tornado tqdm transformers traitlets trimesh typer ujson uncertainties urllib3 wandb
    wordcloud xarray xgboost xlrd xlwt yellowbrick yfinance zarr""".split()  # noqa: SIM905  (a list would be a line a name)
)

#: Modules that come with every box, or with IPython.
THERE = frozenset({"IPython", "ipykernel", "jupyter_client", "jupyter_core", "traitlets", "zmq", "mlvm"})

#: conda's packages that have another name on PyPI.
FROM_CONDA = MappingProxyType(
    {
        "blas": "",
        "dask-core": "dask",
        "faiss": "faiss-cpu",
        "jupyterlab_widgets": "jupyterlab-widgets",
        "libxgboost": "",
        "matplotlib-base": "matplotlib",
        "msgpack-python": "msgpack",
        "opencv": "opencv-python-headless",
        "libopencv": "",
        "py-opencv": "opencv-python-headless",
        "py-xgboost": "xgboost",
        "pytables": "tables",
        "python-graphviz": "graphviz",
        "pytorch": "torch",
        "pytorch-cpu": "torch",
        "pytorch-gpu": "torch",
        "seaborn-base": "seaborn",
        "tensorflow-base": "tensorflow",
        "tensorflow-gpu": "tensorflow",
        "tensorflow-mkl": "tensorflow",
    }
)
#: conda's packages that are programs Debian has as well.
FROM_DEBIAN = MappingProxyType(
    {
        "curl": "curl",
        "ffmpeg": "ffmpeg",
        "gcc": "gcc",
        "gfortran": "gfortran",
        "git": "git",
        "git-lfs": "git-lfs",
        "graphviz": "graphviz",
        "gxx": "g++",
        "imagemagick": "imagemagick",
        "make": "make",
        "nodejs": "nodejs",
        "pandoc": "pandoc",
        "tesseract": "tesseract-ocr",
        "wget": "wget",
        "zip": "zip",
        "unzip": "unzip",
    }
)
#: conda's packages that are no Python packages, beyond those that `lib` and `_` begin.
CONDA_ONLY = frozenset(
    """blas bzip2 c-ares ca-certificates cuda cuda-toolkit cudatoolkit cudnn fontconfig freetype glib gmp harfbuzz hdf5
    icu intel-openmp jpeg krb5 ld_impl_linux-64 llvm-openmp lz4-c mkl mpi mpich ncurses nccl ninja-base nvidia-cuda
    openblas openjpeg openmpi openssl pcre2 proj pthread-stubs python_abi qt qt-main r-base readline snappy sqlite tbb
    tk xz yaml zeromq zlib zstd""".split()  # noqa: SIM905  (a list would be a line a name)
)
#: Those that mean that CUDA is wanted.
CUDA = frozenset({"cuda", "cuda-toolkit", "cudatoolkit", "pytorch-cuda", "cudnn"})


def package_of(module: str) -> str | None:
    """Return the package that brings a module, if that is known here."""
    if module in RENAMED:
        return RENAMED[module]
    return module.lower().replace("_", "-") if module in SAME else None
