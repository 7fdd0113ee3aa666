"""Libraries that are run as they are against the engine or the server, each pinned, in an environment of its own."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Library:
    """A library, and the program of `tests.integrations.programs` that runs it.

    Attributes:
        name: Of the environment.
        requirements: What the environment holds beyond the development one.
        checks: What the program checks, for the table of docs/integrations.md.
        program: Its name and its first arguments; by default the name of the environment.
    """

    name: str
    requirements: tuple[str, ...]
    checks: str
    program: tuple[str, ...] = ()


LIBRARIES = (
    Library(
        "sentence-transformers",
        ("sentence-transformers==6.2.0",),
        "`SentenceEncoder` takes the arguments and gives the types of `SentenceTransformer.encode`; "
        "`InformationRetrievalEvaluator` and `util.semantic_search` run with it",
    ),
    Library(
        "langchain",
        ("langchain-core==1.8.3",),
        "`NaflexEmbeddings` fills and searches an `InMemoryVectorStore`, also from async code, and embeds images",
    ),
    Library(
        "llama-index",
        ("llama-index-core==0.14.25",),
        "`NaflexEmbedding` builds a `VectorStoreIndex` and answers its retriever; batches of images",
    ),
    Library(
        "haystack-ai",
        ("haystack-ai==3.4.1",),
        "`NaflexDocumentEmbedder` embeds images and texts; `NaflexTextEmbedder` asks in a pipeline that is saved as "
        "YAML and read again",
    ),
    Library(
        "schemathesis",
        ("schemathesis==4.32.5",),
        "every answer of `naflex-deploy serve` is one that `/openapi.json` describes, with and without API keys",
    ),
    Library(
        "openai-client",
        ("openai==3.57.0", "langchain-openai==1.7.4"),
        "`naflex-deploy serve` answers `embeddings.create` with texts, images, both and pages, also from async code; "
        "also an image in vLLM's `messages`; LangChain's `OpenAIEmbeddings` runs on it",
    ),
    Library(
        "cohere-client",
        ("cohere==7.3.1",),
        "`naflex-deploy serve` answers `embed` of its clients of both versions, with texts, images and both, also from "
        "async code",
    ),
    Library(
        "infinity",
        ("infinity_client==0.0.78",),
        "`naflex-deploy serve` answers its `embeddings` with texts and with images, also from async code",
    ),
    Library(
        "jina",
        ("jina-haystack==2.0.1", "haystack-ai==3.4.1"),
        "`naflex-deploy serve` answers the components with which Haystack asks Jina, for texts and for image files",
    ),
    Library(
        "litellm-client",
        ("litellm==1.110.2",),
        "`naflex-deploy serve` answers `embedding` with texts and images as `openai/`, `hosted_vllm/`, `infinity/`, "
        "`jina_ai/` and `cohere/`, also from async code",
    ),
    Library(
        "tritonclient-grpc",
        ("tritonclient[grpc]==2.73.0",),
        "`naflex-deploy serve --grpc-port` answers its client, its asyncio client and its streams as the engine does; "
        "each refusal has its status",
    ),
    Library(
        "triton-server",
        ("nvidia-pytriton==0.7.0", "tritonclient[grpc,http]==2.73.0", "numpy==1.26.4"),
        "Triton Server loads the repositories of `triton-server-repo`, with and without `--python`, and runs every "
        "warm-up; its clients get the engine's vectors over HTTP and gRPC, and status 400 for a bad image",
    ),
    Library("duckdb", ("duckdb==2.0.1",), "its recipe, on `.parquet`", ("recipes", "DuckDB", "parquet")),
    Library(
        "lancedb",
        ("lancedb==0.40.0", "pylance==14.0.2"),
        "its recipe, on `.lance`, which pylance writes and `search` reads",
        ("recipes", "LanceDB", "lance"),
    ),
    Library(
        "qdrant",
        ("qdrant-client==1.20.0",),
        "its recipe in local mode, on a directory of Parquet parts",
        ("recipes", "Qdrant", "parts"),
    ),
    Library(
        "pgvector",
        ("pgserver==0.1.4", "psycopg[binary]==3.3.9", "pgvector==0.5.1"),
        "its recipe, on a directory of Parquet parts, against PostgreSQL 16 with pgvector 0.6, which pgserver carries",
        ("recipes", "PostgreSQL with pgvector", "parts"),
    ),
    Library(
        "faiss",
        ("faiss-cpu==1.15.1",),
        "its recipe, on `.faiss`, which `search` reads, too",
        ("recipes", "FAISS", "faiss"),
    ),
)


def table() -> str:
    """The libraries as a table in Markdown."""
    lines = ["| Library | What is run |", "|---|---|"]
    lines += [f"| {', '.join(library.requirements).replace('==', ' ')} | {library.checks} |" for library in LIBRARIES]
    return "\n".join(lines) + "\n"
