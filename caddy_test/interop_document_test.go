package caddy_test

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

const interopIntro = `# With which servers it was tried

Here are authorization servers that others have written, and which grants and client authentications work with them. Each
line is a row that the tests of this repository drive: the server in a process of its own, a real Caddy with the Caddyfile
of [How it is written](#how-it-is-written), and behind it an API that asks the server about each token
(` + "`go -C caddy_test test -race -run TestInterop -v .`" + `). This page is made of the same table as the tests (` + "`-update`" + ` writes
it), so it says what they check.

Your provider is not among them? Find the grant and the client authentication that its documentation asks for, and begin with
the Caddyfile of that line. ` + "`caddy token-source check`" + ` obtains a token with it, or says what the provider did not like.

- **first token**: a caller without credentials is served. Where a person must authorize the source, ` + "`caddy token-source authorize`" + `
  prints the address, and a person logs in at the server's own pages and says yes.
- **renewal**: twice in a row, while callers are served.
- **rotation**: each renewal brings another refresh token, the server refuses the one before, and Caddy has never used one twice.
- **wrong credential**: callers are answered 502 at once, ` + "`caddy token-source check`" + ` (` + "`authorize`" + ` or ` + "`show`" + `, for what it does not ask)
  names the cause, and the server is not asked again. Behind it is what the server answers.
- **revocation**: after ` + "`caddy token-source revoke`" + ` the server does not know the token any more.
- **introspected by the API**: the API asks the server about the token (RFC 7662), and takes it only if it is active.

*None* is: there is none, at this server or with this grant. Why stands below each table.

`

// interopDocument is docs/interop.md.
func interopDocument(servers []*interopServer) string {
	var b strings.Builder
	b.WriteString(interopIntro)
	writeOverview(&b, servers)
	for _, s := range servers {
		fmt.Fprintf(&b, "## %s\n\n%s\n\n", s.name, wrapped(s.about))
		s.writeTable(&b)
		s.writeAbsent(&b)
	}
	b.WriteString("## How it is written\n\n" + wrapped("These are the sources of the table, with names in the place of what differs from server to server: "+
		"its addresses, the client, the scope. What a provider does not have, such as a `revoke_url`, is left out.") + "\n\n")
	for i := range theWays {
		theWays[i].writeSource(&b)
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// writeOverview says which server has what.
func writeOverview(b *strings.Builder, servers []*interopServer) {
	b.WriteString("## What there is\n\n| grant | client authentication ")
	for _, s := range servers {
		fmt.Fprintf(b, "| %s ", s.name)
	}
	b.WriteString("|\n|---|---" + strings.Repeat("|---", len(servers)) + "|\n")
	for i := range theWays {
		way := &theWays[i]
		fmt.Fprintf(b, "| %s | %s ", way.grantName(), way.clientName())
		for _, s := range servers {
			text := "yes"
			if s.offerOf(way.word).absent != "" {
				text = "none"
			}
			fmt.Fprintf(b, "| %s ", text)
		}
		b.WriteString("|\n")
	}
	b.WriteString("\n")
}

// writeTable says what was checked of what the server has.
func (s *interopServer) writeTable(b *strings.Builder) {
	b.WriteString("| grant | client authentication ")
	for c := range columns {
		fmt.Fprintf(b, "| %s ", c)
	}
	b.WriteString("|\n|---|---" + strings.Repeat("|---", int(columns)) + "|\n")
	var notes reasons
	for i := range theWays {
		way := &theWays[i]
		o := s.offerOf(way.word)
		if o.absent != "" {
			continue
		}
		fmt.Fprintf(b, "| %s | %s ", way.grantName(), way.clientName())
		for c := range columns {
			fmt.Fprintf(b, "| %s ", o.cell(c, &notes))
		}
		b.WriteString("|\n")
	}
	b.WriteString("\n")
	for i, why := range notes {
		fmt.Fprintf(b, "%d. %s\n", i+1, why)
	}
	b.WriteString("\n")
}

// writeAbsent says why the server does not have the others.
func (s *interopServer) writeAbsent(b *strings.Builder) {
	b.WriteString("What it does not have:\n\n| grant | client authentication | why |\n|---|---|---|\n")
	for i := range theWays {
		way := &theWays[i]
		if why := s.offerOf(way.word).absent; why != "" {
			fmt.Fprintf(b, "| %s | %s | %s |\n", way.grantName(), way.clientName(), why)
		}
	}
	b.WriteString("\n")
}

// reasons are those of a table, each once.
type reasons []string

func (r *reasons) number(why string) int {
	if i := slices.Index(*r, why); i >= 0 {
		return i + 1
	}
	*r = append(*r, why)
	return len(*r)
}

func (w *interopWay) grantName() string  { return code(w.grant) }
func (w *interopWay) clientName() string { return code(w.client) }

// code marks the first word of a text, which is one of the Caddyfile's.
func code(text string) string {
	word, rest, more := strings.Cut(text, ", ")
	if more {
		return "`" + word + "`, " + rest
	}
	return "`" + word + "`"
}

// offerOf returns a server's offer of a way. Each server has one of each, and be
// it that it is absent.
func (s *interopServer) offerOf(word string) offer {
	for _, o := range theOffers[s.word] {
		if o.way == word {
			return o
		}
	}
	panic(s.name + " neither has nor lacks " + word)
}

// cell is what the document says of something that was checked.
func (o offer) cell(c column, notes *reasons) string {
	switch {
	case o.none[c] != "":
		return fmt.Sprintf("none<sup>%d</sup>", notes.number(o.none[c]))
	case c == theWrongCredential:
		return "yes: `" + o.wrongCode() + "`"
	}
	return "yes"
}

// writeSource writes the Caddyfile of a way.
func (w *interopWay) writeSource(b *strings.Builder) {
	names := map[string]string{
		"dir": "/run/secrets", "client": "legacy-script", "scope": "api", "redirect": "https://crm.internal.example.org/oauth/callback",
		"token": "https://auth.example.org/token", "revoke": "https://auth.example.org/revoke", "issuer": "https://auth.example.org",
		"aud": "https://auth.example.org", "iss": "https://idp.example.org", "sub": "reports", "login": "login-client", "audience": "https://api.example.org",
		"authorize": "https://auth.example.org/authorize", "device": "https://auth.example.org/device",
	}
	source := offer{}.source(w, func(name string) string { return names[name] })
	source = "source crm {\n" + source + "}\n"
	if w.login != "" {
		source = "source login {\n" + written(w.login, func(name string) string { return names[name] }) + "}\n" + source
	}
	fmt.Fprintf(b, "### %s, %s\n\n```caddyfile\n%s```\n\n", w.grantName(), w.clientName(), formatted(source))
	if w.binding == withCertificate {
		fmt.Fprintf(b, "The API sees the same certificate:\n\n```caddyfile\n%s```\n\n", formatted("inject_token crm https://api.example.org {\n"+strings.ReplaceAll(certificateFiles, "{{dir}}", names["dir"])+"}\n"))
	}
}

// assertInteropDocument wants docs/interop.md to be the table; with -update it makes
// it so.
func assertInteropDocument(t *testing.T, servers []*interopServer) {
	t.Helper()
	want := interopDocument(servers)
	if *updateDocument {
		if err := os.WriteFile(filepath.Join("..", "docs", "interop.md"), []byte(want), 0o644); err != nil { //nolint:gosec // a document
			t.Fatal(err)
		}
	}
	if harness.ReadRepositoryFile(t, "docs/interop.md") != want {
		t.Error("docs/interop.md is not the table any more; go test -run TestInterop/document -update writes it")
	}
}
