-- Templates: content that an application stores once and fills with variables in each message. A template has a draft, which
-- may change, and published versions, which never do. A message is rendered from a version; the version's number is stored with
-- the message.

CREATE TABLE templates (
    id uuid NOT NULL,
    tenant_id uuid NOT NULL REFERENCES tenants,
    -- The name by which the application refers to the template; null: it uses the id.
    alias text CONSTRAINT templates_alias_check CHECK (alias ~ '^[A-Za-z][A-Za-z0-9._-]{0,99}$' AND alias !~ '^tpl_'),
    -- Name for people.
    name text NOT NULL,
    created_at timestamptz NOT NULL,
    -- When the draft, the alias or the name was last changed.
    updated_at timestamptz NOT NULL,
    -- Number of changes of the draft, the alias and the name. A change applies only to the revision that it was made for.
    revision integer NOT NULL DEFAULT 1,
    -- The draft. syntax: jinja is MiniJinja; vars is plain substitution of {{KEY}} and {{{KEY}}}.
    syntax text NOT NULL CHECK (syntax IN ('jinja', 'vars')),
    -- The language of the html column: html, or mjml, which is compiled to HTML when the template is published.
    format text NOT NULL CHECK (format IN ('html', 'mjml')),
    -- Subject, HTML or MJML body, plain text body, and sender (an address with an optional display name), all as templates.
    -- Null: not set. Without a text, the plain text body is derived from the HTML body.
    subject text,
    html text,
    text text,
    sender text,
    -- Addresses of the Reply-To header as templates, an array of strings.
    reply_to jsonb NOT NULL DEFAULT '[]',
    -- The template that the bodies are inserted into (templates.id), unless it was deleted since; null: none.
    layout_id uuid,
    -- The declared variables, [{"key", "type", "required", "default", "max_length"}].
    variables jsonb NOT NULL DEFAULT '[]',
    -- The latest published version (template_versions.version), and the revision that it was made from; null: never published.
    version integer,
    version_revision integer,
    CONSTRAINT templates_version_whole CHECK ((version IS NULL) = (version_revision IS NULL)),
    -- Serves every lookup of a template by id, and GET /v1/templates (newest first).
    PRIMARY KEY (tenant_id, id),
    -- Serves the lookup of a template by alias.
    UNIQUE (tenant_id, alias)
);

-- Serves the check whether a template is a layout, when it is deleted.
CREATE INDEX templates_layout ON templates (tenant_id, layout_id) WHERE layout_id IS NOT NULL;

-- lz4 compresses about ten times as fast as pglz. A Postgres server built without lz4 uses its default.
DO $$ BEGIN
    ALTER TABLE templates ALTER COLUMN html SET COMPRESSION lz4, ALTER COLUMN text SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN NULL;
END $$;

-- Published versions. Immutable.
CREATE TABLE template_versions (
    tenant_id uuid NOT NULL,
    -- templates.id.
    template_id uuid NOT NULL,
    -- Number of the version, from 1.
    version integer NOT NULL CHECK (version > 0),
    published_at timestamptz NOT NULL,
    -- The draft as it was published; the columns are those of templates.
    syntax text NOT NULL CHECK (syntax IN ('jinja', 'vars')),
    format text NOT NULL CHECK (format IN ('html', 'mjml')),
    subject text,
    html text,
    text text,
    sender text,
    reply_to jsonb NOT NULL,
    layout_id uuid,
    variables jsonb NOT NULL,
    -- What messages are rendered from (template::Compiled): layouts are inserted, MJML and CSS are processed, and the plain
    -- text body is derived.
    compiled jsonb NOT NULL,
    -- Serves the lookup of a version, and GET /v1/templates/{id}/versions (newest first).
    PRIMARY KEY (tenant_id, template_id, version),
    FOREIGN KEY (tenant_id, template_id) REFERENCES templates ON DELETE CASCADE
);

DO $$ BEGIN
    ALTER TABLE template_versions ALTER COLUMN html SET COMPRESSION lz4, ALTER COLUMN text SET COMPRESSION lz4,
        ALTER COLUMN compiled SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN NULL;
END $$;

-- The template and the version that a message was rendered from (template_versions.version); null: it has no template. The
-- template may have been deleted since.
ALTER TABLE messages ADD COLUMN template_id uuid, ADD COLUMN template_version integer;
