/**
 * What the {@link ControlPlane} has and how it answers, without a wire: sandboxes, volumes with their files in directories of
 * this host, and snapshots of disks. Its documents are those of the engine's client (`types/lib/cloud` of the crate, 0.7.2).
 */
import * as crypto from "node:crypto"
import * as NodeFs from "node:fs"
import * as NodePath from "node:path"

/** What is asked on a route; `names` are what its path says for the route's names. */
export interface Asked {
  readonly names: ReadonlyArray<string>
  readonly query: URLSearchParams
  readonly headers: Readonly<Record<string, unknown>>
  readonly bytes: Buffer
}

/** An answer: a JSON document, or bytes. */
export interface Answer {
  readonly status: number
  readonly body: unknown
}

export type Source = "stdout" | "stderr" | "output" | "system"

/** One event of a sandbox's log; `id` is the engine's cursor of it. */
export interface LogEvent {
  readonly id: string
  readonly source: Source
  readonly ts: string
  readonly text: string
}

type Json = { readonly [key: string]: any }

/** A sandbox, and its document. */
export interface Sandbox {
  readonly id: string
  readonly name: string
  /** Of its guest. */
  readonly root: string
  readonly events: Array<LogEvent>
  readonly document: Json & { status: string }
}

const sha256 = (text: string) => `sha256:${crypto.createHash("sha256").update(text).digest("hex")}`

const now = () => new Date().toISOString()

const ok = (body: unknown): Answer => ({ status: 200, body })

const refused = (status: number, code: string, message: string): Answer => ({
  status,
  body: { error: { code, message } }
})

const missing = (what: string, name: string) => refused(404, `${what}_not_found`, `${what} ${name} is not there`)

/** The engine's text of the cursor of an event: a count, and for each file its generation and where it was read to. */
const cursorOf = (index: number): string => {
  const bytes = Buffer.alloc(17)
  bytes[0] = 1
  bytes.writeBigUInt64LE(1n, 1)
  bytes.writeBigUInt64LE(BigInt(index), 9)
  return bytes.toString("base64")
}

/** A page of a list, of as many as are asked for and not more than `most`. */
const page = (all: ReadonlyArray<unknown>, query: URLSearchParams, most: number): Answer => {
  const first = Number(query.get("cursor") ?? 0)
  const end = first + Math.min(Number(query.get("limit") ?? most), most)
  return ok({ data: all.slice(first, end), next_cursor: end < all.length ? `${end}` : null })
}

/** What is remembered of a create request: no credentials. */
const projected = ({ network, registry: _, slug: _slug, ...spec }: Json): Json => ({
  ...spec,
  network: network?.secrets
    ? {
      ...network,
      secrets: { ...network.secrets, entries: network.secrets.entries.map((entry: Json) => ({ ...entry, value: "" })) }
    }
    : network
})

/** A cloud in an empty directory. `changed` is told of each sandbox whose state or log has changed. */
export const make = (directory: string, changed: (sandbox: Sandbox) => void) => {
  const sandboxes = new Map<string, Sandbox>()
  const volumes = new Map<string, Json>()
  const snapshots = new Map<string, Json>()
  const operations = new Map<string, Json>()

  const newDirectory = (...names: ReadonlyArray<string>) => {
    const path = NodePath.join(directory, ...names)
    NodeFs.mkdirSync(path, { recursive: true })
    return path
  }

  // -----------------------------------------------------------------------------
  // Sandboxes
  // -----------------------------------------------------------------------------

  const byName = (name: string) => [...sandboxes.values()].find((sandbox) => sandbox.name === name)

  const start = (sandbox: Sandbox) => {
    Object.assign(sandbox.document, { status: "running", started_at: now() })
    changed(sandbox)
    return ok(sandbox.document)
  }

  const stop = (sandbox: Sandbox) => {
    Object.assign(sandbox.document, { status: "stopped", stopped_at: now() })
    changed(sandbox)
    return ok(sandbox.document)
  }

  const remove = (sandbox: Sandbox) => {
    if (sandbox.document.status === "running") return refused(409, "sandbox_running", `${sandbox.name} is running`)
    sandboxes.delete(sandbox.id)
    return ok({ message: `sandbox ${sandbox.name} is removed` })
  }

  const create = (body: Json, isStarted: boolean): Answer => {
    if (byName(body.name) !== undefined) return refused(409, "name_already_exists", `the name ${body.name} is taken`)
    if (body.source === "disk_snapshot") {
      const { id, path } = body.disk_snapshot_ref
      const found = id === undefined
        ? NodeFs.existsSync(inVolume(host, `${path}/snapshot.json`)!)
        : snapshots.has(id)
      if (!found) return missing("snapshot", id ?? path)
    } else if (body.source !== "oci" || typeof body.reference !== "string") {
      return refused(422, "invalid_sandbox_config", "a sandbox is made of an image or of a snapshot")
    }
    const id = crypto.randomUUID()
    const sandbox: Sandbox = {
      id,
      name: body.name,
      root: newDirectory("guests", id),
      events: [],
      document: {
        id,
        org_id: "00000000-0000-0000-0000-000000000001",
        name: body.name,
        slug: body.slug ?? `slug-${id.slice(0, 8)}`,
        status: "created",
        spec: projected(body),
        ephemeral: body.lifecycle?.ephemeral ?? false,
        created_at: now(),
        started_at: null,
        stopped_at: null,
        last_failure_message: null,
        // The client has to take what it does not know.
        region: "loopback"
      }
    }
    sandboxes.set(id, sandbox)
    return isStarted ? start(sandbox) : ok(sandbox.document)
  }

  const list = (query: URLSearchParams): Answer => {
    const labels = Object.entries(JSON.parse(query.get("labels") ?? "{}"))
    const documents = [...sandboxes.values()].map(({ document }) => document)
    const wanted = documents.filter(({ spec }) => labels.every(([key, value]) => spec.labels?.[key] === value))
    return page(wanted, query, 100)
  }

  const of = (find: (name: string) => Sandbox | undefined, run: (sandbox: Sandbox) => Answer) => ({ names }: Asked) => {
    const sandbox = find(names[0]!)
    return sandbox === undefined ? missing("sandbox", names[0]!) : run(sandbox)
  }
  const byId = (id: string) => sandboxes.get(id)
  const show = ({ document }: Sandbox) => ok(document)

  // -----------------------------------------------------------------------------
  // Volumes
  // -----------------------------------------------------------------------------

  const newVolume = (name: string | null, labels: Json, capacity: number | null): Json => {
    const volume = {
      id: crypto.randomUUID(),
      name,
      kind: name === null ? "host" : "managed",
      status: "active",
      used_bytes: 0,
      capacity_bytes: capacity,
      labels,
      created_at: now(),
      updated_at: now()
    }
    volumes.set(volume.id, volume)
    newDirectory("volumes", volume.id)
    return volume
  }

  const host = newVolume(null, {}, null)

  /** A path of this host; none when it would be outside. */
  const inVolume = ({ id }: Json, path: string): string | undefined => {
    const root = NodePath.join(directory, "volumes", id)
    const full = NodePath.join(root, path)
    return full === root || full.startsWith(`${root}/`) ? full : undefined
  }

  const createVolume = ({ capacity_gib, labels, name }: Json): Answer =>
    [...volumes.values()].some((volume) => volume.name === name)
      ? refused(409, "name_already_exists", `the name ${name} is taken`)
      : ok(newVolume(name, labels, capacity_gib === undefined ? null : capacity_gib * 2 ** 30))

  const removeVolume = ({ names: [id = ""] }: Asked): Answer => {
    if (id === host.id) return refused(400, "invalid_request", "the default volume stays")
    NodeFs.rmSync(NodePath.join(directory, "volumes", id), { recursive: true, force: true })
    return volumes.delete(id) ? ok({ message: "the volume is removed" }) : missing("volume", id)
  }

  const fileOf = (full: string, path: string): Json => {
    const stat = NodeFs.statSync(full)
    return {
      path,
      kind: stat.isDirectory() ? "directory" : "file",
      size: stat.size,
      mode: stat.mode & 0o7777,
      uid: stat.uid,
      gid: stat.gid,
      readonly: (stat.mode & 0o200) === 0,
      accessed_at: stat.atime.toISOString(),
      modified_at: stat.mtime.toISOString(),
      created_at: null
    }
  }

  /** Something of one path, which the header of the request has, and a second one where the body has two. */
  const files = (run: (full: string, path: string, asked: Asked) => Answer) => (asked: Asked): Answer => {
    const volume = volumes.get(asked.names[0]!)
    if (volume === undefined) return missing("volume", asked.names[0]!)
    const header = asked.headers["x-msb-file-path"]
    const { from, path = from } = header === undefined ? JSON.parse(asked.bytes.toString()) : {
      path: Buffer.from(String(header), "base64url").toString()
    }
    const full = inVolume(volume, path)
    if (full === undefined) return refused(400, "invalid_volume_path", `${path} is outside of the volume`)
    try {
      return run(full, path, asked)
    } catch (error) {
      const { code, message } = error as NodeJS.ErrnoException
      return code === "ENOENT"
        ? refused(404, "volume_file_not_found", `${path} is not there`)
        : refused(400, "invalid_request", `${path}: ${message.split(":")[0]}`)
    }
  }

  const twoFiles = (run: (from: string, to: string) => void) =>
    files((from, path, { bytes, names }) => {
      const to = inVolume(volumes.get(names[0]!)!, JSON.parse(bytes.toString()).to)
      if (to === undefined) return refused(400, "invalid_volume_path", `${path} is outside of the volume`)
      run(from, to)
      return ok({ message: "done" })
    })

  const done = ok({ message: "done" })

  // -----------------------------------------------------------------------------
  // Snapshots
  // -----------------------------------------------------------------------------

  const capture = ({ dest_dir, force = false, labels = {}, name, sandbox_id }: Json): Answer => {
    const sandbox = sandboxes.get(sandbox_id)
    if (sandbox === undefined) return missing("sandbox", sandbox_id)
    const before = [...snapshots.values()].find((snapshot) => snapshot.name === name)
    if (before !== undefined && !force) return refused(409, "snapshot_name_already_exists", `the name ${name} is taken`)
    if (before !== undefined) snapshots.delete(before.location.id)
    // Its digest is of the canonical text, whose keys stand in this order.
    const manifest = {
      schema: 1,
      artifact: "snapshot",
      scope: "disk",
      created_at: now().replace(/[.]?0*Z$/, "Z"),
      parent: null,
      image: {
        ref: sandbox.document.spec.reference ?? "docker.io/library/restored:latest",
        manifest_digest: `sha256:${"ab".repeat(32)}`
      },
      source_sandbox: sandbox.name,
      state: {
        kind: "file",
        format: "raw",
        fstype: "ext4",
        upper: { file: "upper.ext4", size_bytes: 4096, integrity: null }
      },
      labels: Object.fromEntries(Object.entries(labels).sort(([a], [b]) => a < b ? -1 : 1)),
      extensions: {},
      requires: []
    }
    const descriptor = JSON.stringify(manifest)
    const location = dest_dir === undefined
      ? { type: "managed", id: crypto.randomUUID() }
      : { type: "host_volume", path: `${dest_dir}/${name}` }
    if (location.path !== undefined) {
      const artifact = inVolume(host, location.path)!
      NodeFs.mkdirSync(artifact, { recursive: true })
      NodeFs.writeFileSync(NodePath.join(artifact, "snapshot.json"), descriptor)
      NodeFs.writeFileSync(NodePath.join(artifact, "upper.ext4"), Buffer.alloc(4096))
    }
    const snapshot = {
      kind: "disk",
      name,
      location,
      sandbox_id,
      digest: sha256(descriptor),
      size_bytes: 4096,
      manifest,
      labels,
      created_at: manifest.created_at
    }
    const operation = { id: crypto.randomUUID(), kind: "disk", created_at: now(), updated_at: now() }
    operations.set(operation.id, { ...operation, snapshot })
    return ok({ ...operation, status: "queued" })
  }

  /** The first look sees it under way, and the second sees it done. */
  const operation = ({ names: [id = ""] }: Asked): Answer => {
    const found = operations.get(id)
    if (found === undefined) return missing("snapshot_operation", id)
    const { looks = 0, snapshot, ...rest } = found
    operations.set(id, { ...found, looks: looks + 1 })
    if (looks === 0) return ok({ ...rest, status: "in_progress" })
    if (snapshot.location.type === "managed") snapshots.set(snapshot.location.id, snapshot)
    return ok({ ...rest, status: "succeeded", result: snapshot, completed_at: now() })
  }

  const snapshotBy =
    (find: (name: string) => Json | undefined, run: (snapshot: Json) => Answer) =>
    ({ names: [name = ""] }: Asked): Answer => {
      const snapshot = find(name)
      return snapshot === undefined ? missing("snapshot", name) : run(snapshot)
    }
  const snapshotById = (id: string) => snapshots.get(id)
  const snapshotByName = (name: string) => [...snapshots.values()].find((snapshot) => snapshot.name === name)
  const removeSnapshot = ({ location }: Json): Answer => {
    snapshots.delete(location.id)
    return done
  }

  const body = ({ bytes }: Asked): Json => JSON.parse(bytes.toString())

  const routes: Readonly<Record<string, (asked: Asked) => Answer>> = {
    "POST /v1/sandboxes": (asked) => create(body(asked), asked.query.get("start") === "true"),
    "GET /v1/sandboxes": ({ query }) => list(query),
    "GET /v1/sandboxes/by-name/:name": of(byName, show),
    "GET /v1/sandboxes/:id": of(byId, show),
    "POST /v1/sandboxes/by-name/:name/start": of(byName, start),
    "POST /v1/sandboxes/:id/start": of(byId, start),
    "POST /v1/sandboxes/by-name/:name/stop": of(byName, stop),
    "POST /v1/sandboxes/:id/stop": of(byId, stop),
    "DELETE /v1/sandboxes/by-name/:name": of(byName, remove),
    "DELETE /v1/sandboxes/:id": of(byId, remove),
    "GET /v1/volumes": () => ok([...volumes.values()]),
    "POST /v1/volumes": (asked) => createVolume(body(asked)),
    "GET /v1/volumes/default": () => ok(host),
    "DELETE /v1/volumes/:id": removeVolume,
    "GET /v1/volumes/:id/files/content": files((full) => ok(NodeFs.readFileSync(full))),
    "PUT /v1/volumes/:id/files/content": files((full, _, { bytes }) => {
      NodeFs.mkdirSync(NodePath.dirname(full), { recursive: true })
      NodeFs.writeFileSync(full, bytes)
      return done
    }),
    "GET /v1/volumes/:id/files": files((full, path) =>
      ok({
        entries: NodeFs.readdirSync(full).map((name) => fileOf(NodePath.join(full, name), NodePath.join(path, name)))
      })
    ),
    "GET /v1/volumes/:id/files/stat": files((full, path) => ok({ metadata: fileOf(full, path) })),
    "GET /v1/volumes/:id/files/exists": files((full) => ok({ exists: NodeFs.existsSync(full) })),
    "DELETE /v1/volumes/:id/files": files((full, _, { headers }) => {
      const isDirectory = NodeFs.statSync(full).isDirectory()
      if (headers["x-msb-file-recursive"] === "true") NodeFs.rmSync(full, { recursive: true })
      else if (isDirectory) NodeFs.rmdirSync(full)
      else NodeFs.unlinkSync(full)
      return done
    }),
    "POST /v1/volumes/:id/files/mkdir": files((full) => {
      NodeFs.mkdirSync(full, { recursive: true })
      return done
    }),
    "POST /v1/volumes/:id/files/copy": twoFiles((from, to) => NodeFs.cpSync(from, to, { recursive: true })),
    "POST /v1/volumes/:id/files/rename": twoFiles((from, to) => NodeFs.renameSync(from, to)),
    "POST /v1/snapshots": (asked) => capture(body(asked)),
    // Fewer than the client asks for.
    "GET /v1/snapshots": ({ query }) => page([...snapshots.values()], query, 2),
    "GET /v1/snapshot-operations/:id": operation,
    "GET /v1/snapshots/by-name/:name": snapshotBy(snapshotByName, ok),
    "GET /v1/snapshots/:id": snapshotBy(snapshotById, ok),
    "DELETE /v1/snapshots/by-name/:name": snapshotBy(snapshotByName, removeSnapshot),
    "DELETE /v1/snapshots/:id": snapshotBy(snapshotById, removeSnapshot)
  }

  return {
    routes,
    sandbox: byId,
    sandboxNamed: byName,
    /** What it has, by name. */
    names: () => ({
      sandboxes: [...sandboxes.values()].map(({ name }) => name),
      volumes: [...volumes.values()].flatMap(({ name }) => name === null ? [] : [name as string]),
      snapshots: [...snapshots.values()].map(({ name }) => name as string)
    }),
    stop: (sandbox: Sandbox) => void stop(sandbox),
    /** Something that a program of a sandbox has written. */
    log: (sandbox: Sandbox, text: string, source: Source = "stdout") => {
      sandbox.events.push({ id: cursorOf(sandbox.events.length + 1), source, ts: now(), text })
      changed(sandbox)
    }
  }
}
