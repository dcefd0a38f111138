package caddy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

// writeFiles writes what a source reads, and the same with what is wrong.
func (r *interopRow) writeFiles() {
	const somebodyElses = "of-somebody-else-0123456789-abcdef"
	k := r.world.keys
	right := map[string]string{"client-secret": r.offer.secret, "password": r.server.password(), "subject-token": r.subject, "ca.pem": k.ca.pem()}
	wrong := map[string]string{"client-secret": somebodyElses, "password": somebodyElses, "subject-token": somebodyElses, "refresh-token": somebodyElses}
	if r.way.word == "refresh" {
		right["refresh-token"] = r.seed()
	}
	if r.way.alg != "" {
		right["key.pem"], wrong["key.pem"] = privatePEM(r.t, k.signer[r.way.alg]), privatePEM(r.t, k.forger[r.way.alg])
	}
	right["login-secret"] = loginSecrets[r.server.word]
	if r.way.word == "code-assertion" {
		right["assertion"], wrong["assertion"] = r.assertion(k.signer), r.assertion(k.forger)
	}
	if r.way.binding == withCertificate {
		client := k.client
		if r.way.word == "cc-self-signed" {
			client = k.selfSigned
		}
		right["client.pem"], right["client-key.pem"] = client.pem(), client.keyInPEM(r.t)
		wrong["client.pem"], wrong["client-key.pem"] = k.stranger.pem(), k.stranger.keyInPEM(r.t)
	}
	if err := os.MkdirAll(filepath.Join(r.dir, "wrong"), 0o700); err != nil {
		r.t.Fatal(err)
	}
	for name, text := range right {
		harness.WriteFile(r.t, r.dir, name, text)
		if file := r.way.wrong.file; name == file || file == "client.pem" && name == "client-key.pem" {
			text = wrong[name]
		}
		harness.WriteFile(r.t, r.dir, filepath.Join("wrong", name), text)
	}
}

// start starts a Caddy whose tokens are renewed soon.
func (r *interopRow) start() {
	r.t.Helper()
	r.c = harness.Start(r.t, r.caddyfile(r.renewedSoon()))
}

// caddyfile has the row's source, and one that differs in what is wrong.
func (r *interopRow) caddyfile(when string) string {
	sources := "source crm {\n" + r.source(r.base, r.dir) + when + patient + "}\n"
	if r.way.login != "" {
		sources += "source login {\n" + written(r.way.login, r.value(r.base, r.dir)) + patient + "}\n"
	}
	site := "inject_token crm " + r.upstream()
	if r.hasWrong() {
		base := r.wrongly.URL
		if r.way.binding == withCertificate {
			base = r.base // nobody can stand between
		}
		sources += "source wrong {\n" + r.source(base, filepath.Join(r.dir, "wrong")) + patient + "}\n"
		site = "inject_token /wrong wrong " + r.upstream() + "\n" + site
	}
	if r.way.person {
		site = "token_callback /callback\n" + site
	}
	return fmt.Sprintf("{\n{{globals}}\ntoken_sources {\n%s}\n}\n%s {\nbind 127.0.0.1\n%s\n}\n", sources, r.site, site)
}

// hasWrong says whether there is a source with a wrong credential.
func (r *interopRow) hasWrong() bool { return r.has(theWrongCredential) && !r.way.caller }

// upstream is the API, and how it is reached.
func (r *interopRow) upstream() string {
	return r.api.URL + " {\nwait 50s\n" + strings.ReplaceAll(r.way.transport(), "{{dir}}", r.dir) + "}"
}

func (r *interopRow) renewedSoon() string {
	if r.server.word == "zitadel" {
		return renewedEarlier
	}
	return renewedEarly
}

// source are the options of the row's source, at the server or what stands before
// it, with the files of a folder.
func (r *interopRow) source(base, dir string) string {
	return r.offer.source(r.way, r.value(base, dir))
}

// value is what stands for {{NAME}} in the options of the row's sources.
func (r *interopRow) value(base, dir string) func(name string) string {
	return func(name string) string {
		switch name {
		case "dir":
			return dir
		case "client":
			return r.offer.client
		case "scope":
			return r.offer.scope
		case "redirect":
			return r.site + "/callback"
		case "issuer":
			return r.issuer()
		}
		if text, written := r.offer.names[name]; written {
			return strings.ReplaceAll(text, "{{issuer}}", r.issuer())
		}
		return r.server.url(base, name)
	}
}

// issuer is the server's own name.
func (r *interopRow) issuer() string { return "http://" + r.server.host + r.server.paths["issuer"] }

var placeholder = regexp.MustCompile(`\{\{[a-z]+\}\}`)

// source are the options of a way at a server.
func (o offer) source(w *interopWay, value func(name string) string) string {
	return written(w.source+o.extra, value)
}

// written replaces {{…}} in options. A line of which one is nothing is left out.
func written(options string, value func(name string) string) string {
	var out strings.Builder
	for line := range strings.Lines(options) {
		there := true
		line = placeholder.ReplaceAllStringFunc(line, func(found string) string {
			text := value(strings.Trim(found, "{}"))
			there = there && text != ""
			return text
		})
		if there {
			out.WriteString(line)
		}
	}
	return out.String()
}
