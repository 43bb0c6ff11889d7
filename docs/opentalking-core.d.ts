// The types of opentalking-core's HTTP API. Made from /openapi.json by tools/typescript_types.py: don't edit this file.

/** A manifest.json. Keys that the bundle format doesn't define are kept (`model_extra`). */
export type AvatarManifest = {
  /** Should be the bundle's folder name. If the two differ, the folder's name is the avatar's id. */
  "id": string;
  /** The name to show. */
  "name"?: string | null;
  /** The model that drives the avatar. */
  "model_type": string;
  /** Frames per second of the output video, above 0. */
  "fps": number;
  /** Sample rate of the audio, in Hz, above 0. */
  "sample_rate": number;
  /** Width of the output video, in pixels, at least 1. */
  "width": number;
  /** Height of the output video, in pixels, at least 1. */
  "height": number;
  /** Version of the asset. */
  "version"?: string | null;
  /** Any further values. */
  "metadata"?: {
    [key: string]: unknown;
  };
  [key: string]: unknown;
};

/** The six fields that GET /avatars lists of an avatar. */
export type AvatarSummary = {
  /** The bundle's folder name. */
  "id": string;
  /** The name to show; the id if the manifest has no name. */
  "name": string;
  /** The model that drives the avatar, e.g. "wav2lip". */
  "model_type": string;
  /** Width of the output video, in pixels. */
  "width": number;
  /** Height of the output video, in pixels. */
  "height": number;
  /** Whether POST /avatars/custom created the avatar, so that it may be deleted. */
  "is_custom": boolean;
};

/** A mouth detector. */
export type DetectorHealth = {
  /** Its plugin. */
  "plugin": string;
  /** Whether it works. */
  "ok": boolean;
  /** One sentence on what keeps it from working, or on its last failure. */
  "problem": string | null;
};

/** Whether the service works. */
export type Health = {
  /** `ok`; `degraded`: avatars are served, but something else doesn't work; `unavailable`: the store doesn't answer. */
  "status": "ok" | "degraded" | "unavailable";
  /** The bundle store. If reading is protected, only readers get this field and the next ones. */
  "store"?: StoreHealth;
  /** The mouth detectors, in the order in which they are asked. */
  "detectors"?: Array<DetectorHealth>;
  /** What keeps other plugins from working, one sentence each, by plugin. The status doesn't depend on them. Left out for clients without permission where anything needs one. Of a plugin that can't be imported, only the log and the command line say why, because an exception's text may hold a secret. */
  "plugins"?: {
    [key: string]: Array<string>;
  };
};

/** The result of one check. */
export type PortraitCheck = {
  /** One of face_found, one_face, face_width, face_inside, yaw, pitch, roll, mouth_closed, sharpness, exposure; and for a video frames_with_mouth. */
  "name": string;
  /** Null if the check was not measured, which fails nothing. */
  "passed": boolean | null;
  /** The measured value; null if nothing was measured. */
  "value": number | boolean | null;
  /** The values that pass: at least `min`, at most `max`, or `equals`. */
  "limit": {
    [key: string]: number | boolean;
  };
  /** Of value and limit, if they have one. */
  "unit": string | null;
  /** One plain sentence; for a failed check it says what to do. */
  "message": string;
};

/** The results of all checks of one portrait. */
export type PortraitReport = {
  /** Whether no check failed. */
  "passed": boolean;
  /** In the order in which people should read them. */
  "checks": Array<PortraitCheck>;
  /** Where the mouth is, with the keys of a manifest's metadata (mouth_polygon_source, animation, face_box); null if no mouth was found in the picture. */
  "mouth"?: {
    [key: string]: unknown;
  } | null;
};

/** The bundle store. */
export type StoreHealth = {
  /** The storage plugin. */
  "plugin": string;
  /** Where the bundles are, without credentials. */
  "url": string;
  /** Whether the store answers. */
  "ok": boolean;
  /** One sentence on what is wrong. */
  "problem": string | null;
  /** How many are listed. */
  "avatars": number;
  /** Whether the list may lack changes. */
  "stale": boolean;
};

/** A JSON merge patch (RFC 7396): null removes a key of `metadata`, and objects are merged. */
export type AvatarPatch = {
  /** The name that people see. */
  "name"?: string;
  /** Keys that record how the avatar was made can't be changed. */
  "metadata"?: {
    /** Outlines of the mouth; null removes the mouth. The centre and the radii are computed from them. */
    "animation"?: {
      "outer_lip"?: Array<Array<number>>;
      "inner_mouth"?: Array<Array<number>>;
    } | null;
    /** Left, top, right and bottom of the face. */
    "face_box"?: Array<number> | null;
    "custom_avatar"?: never;
    "hidden"?: never;
    "base_avatar_id"?: never;
    "portrait_checks"?: never;
    "created_at"?: never;
    "created_by"?: never;
    "consent"?: never;
    "reference_mode"?: never;
    "frame_dir"?: never;
    "frame_metadata"?: never;
    "extracted_frame_count"?: never;
    "template_video"?: never;
    "asset_root"?: never;
    "video"?: never;
    "quicktalk"?: never;
    "preprocessed"?: never;
    "preprocess_version"?: never;
    "mouth_polygon_source"?: never;
  };
};

export type Error = {
  /** One clear sentence: what was wrong, with which value, what to do. */
  "detail": string;
};

export interface Operations {
  /** List the avatars */
  list_avatars: {
    method: "GET";
    path: "/avatars";
    response: Array<AvatarSummary>;
  };
  /** Create an avatar from a portrait or a video */
  create_avatar: {
    method: "POST";
    path: "/avatars/custom";
    body: {
      /** The name that people see. */
      "name": string;
      /** The avatar to take as a template; its model type must be one that a portrait can drive, such as wav2lip. */
      "base_avatar_id": string;
      /** A JPEG, PNG or WebP, at most 10 MB. */
      "image": Blob;
    } | {
      /** The name that people see. */
      "name": string;
      /** The avatar to take as a template; its model type must be one that a portrait can drive, such as wav2lip. */
      "base_avatar_id": string;
      /** An MP4, MOV, WebM or MKV, at most 200 MB. */
      "video": Blob;
    };
    response: AvatarSummary;
  };
  /** Check a portrait or a video */
  check_portrait: {
    method: "POST";
    path: "/avatars/check";
    body: {
      /** A JPEG, PNG or WebP, at most 10 MB. */
      "image": Blob;
    } | {
      /** An MP4, MOV, WebM or MKV, at most 200 MB. */
      "video": Blob;
    };
    response: PortraitReport;
  };
  /** Follow the changes of the list */
  follow_avatars: {
    method: "GET";
    path: "/avatars/events";
  };
  /** Read an avatar's manifest */
  get_avatar: {
    method: "GET";
    path: "/avatars/{avatar_id}";
    response: AvatarManifest;
  };
  /** Delete a custom avatar */
  delete_avatar: {
    method: "DELETE";
    path: "/avatars/{avatar_id}";
    response: {
      "deleted": true;
    };
  };
  /** Change a custom avatar's name and metadata */
  change_avatar: {
    method: "PATCH";
    path: "/avatars/{avatar_id}";
    body: AvatarPatch;
    response: AvatarManifest;
  };
  /** Read an avatar's preview */
  get_preview: {
    method: "GET";
    path: "/avatars/{avatar_id}/preview";
  };
  /** Read the video from which an avatar was made */
  get_preview_video: {
    method: "GET";
    path: "/avatars/{avatar_id}/preview-video";
  };
  /** List the files of an avatar's bundle */
  list_files: {
    method: "GET";
    path: "/avatars/{avatar_id}/files";
    response: Array<{
      /** The file's path in the bundle, separated by `/`. */
      "path": string;
      /** The file's size in bytes. */
      "size": number;
      /** The file's ETag, without quotes. */
      "etag": string;
      /** When the file was changed, in UTC (ISO 8601). */
      "modified": string;
    }>;
  };
  /** Read a file of an avatar's bundle */
  get_file: {
    method: "GET";
    path: "/avatars/{avatar_id}/files/{path}";
  };
  /** Download an avatar's bundle */
  get_bundle_zip: {
    method: "GET";
    path: "/avatars/{avatar_id}/bundle.zip";
  };
  /** Metrics for Prometheus */
  get_metrics: {
    method: "GET";
    path: "/metrics";
  };
  /** Does it work? */
  get_health: {
    method: "GET";
    path: "/health";
    response: Health;
  };
  /** The gallery */
  get_gallery: {
    method: "GET";
    path: "/";
  };
  /** A file of the gallery */
  get_gallery_file: {
    method: "GET";
    path: "/gallery/{name}";
  };
  /** This document to read and to try */
  get_docs: {
    method: "GET";
    path: "/docs";
  };
  /** A file of that page */
  get_docs_file: {
    method: "GET";
    path: "/docs/{name}";
  };
  /** This document */
  get_openapi: {
    method: "GET";
    path: "/openapi.json";
    response: {
      "openapi": unknown;
    };
  };
}
