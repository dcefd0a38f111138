package caddy_test

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

var updateDocument = flag.Bool("update", false, "write docs/failures.md and docs/interop.md")

const documentIntro = `# What happens when something fails

Each line of these tables is a case that the tests of this repository drive with a real Caddy, a provider and an API
(` + "`go -C caddy_test test -race -run TestFaultTable -v .`" + `). This page is made of the same table as the tests
(` + "`-update`" + ` writes it), so it says what they check.

- **token** is what Caddy holds when the fault strikes: a *valid* token, one that has *expired*, or *none*: Caddy starts with
  the fault.
- **callers** is what they get and how soon. Where they wait, it is one request of the source for all of them, and the time
  is the longest in these cases. ` + "`503`" + ` has ` + "`Retry-After`" + `. With *injected*, *replayed*, *refused* and *failed* the access
  log says what became of the token (` + "`token_outcome`" + `).
- **token requests** are those from then on. *Again and again* is with growing pauses, from 1 s up to a minute, however many
  callers ask.
- **log** is what the source's logger ` + "`token_sources.NAME`" + ` says. HOST is the provider's host and port.

`

// document is docs/failures.md.
func document() string {
	var b strings.Builder
	b.WriteString(documentIntro)
	last := section("")
	for _, f := range faultTable {
		if f.section != last {
			last = f.section
			fmt.Fprintf(&b, "## %s\n\n%s\n\n", last, wrapped(sectionAbout[last]))
		}
		fmt.Fprintf(&b, "### %s\n\n%s\n\n", f.heading(), wrapped(f.about))
		f.write(&b)
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// wrapped breaks a paragraph into lines.
func wrapped(text string) string {
	var b strings.Builder
	width := 0
	for word := range strings.FieldsSeq(text) {
		switch {
		case width == 0:
		case width+1+len(word) > 120:
			b.WriteByte('\n')
			width = 0
		default:
			b.WriteByte(' ')
			width++
		}
		b.WriteString(word)
		width += len(word)
	}
	return b.String()
}

// sectionAbout is what is checked of each fault of a section.
var sectionAbout = map[section]string{
	ofProvider: "The grant is `client_credentials`. When the provider works again, callers are served again without anybody's help, " +
		"except where it says otherwise.",
	ofStorage: "The storage is one that is configured, so that other nodes may have it. A source whose storage fails goes on from " +
		"memory, and the token is stored when the storage works again, without anybody's help. A refresh token that rotates is not " +
		"spent meanwhile: where there is another grant, that is used. (With the storage that Caddy uses by itself, which is a folder of " +
		"this machine, `refresh_token` alone goes on from memory as well.)",
	ofUpstream: "The grant is `client_credentials`. Where there is no valid token, callers wait for one first, and that is one of the " +
		"token requests.",
	ofProcess: "Killed with SIGKILL at a step of a renewal, and started again at once. The table says what callers get after that, and " +
		"which token requests the new process sends.",
}

func (f fault) heading() string {
	if f.section == ofProcess {
		return "Killed " + f.title
	}
	return string(f.section) + " " + f.title
}

func (f fault) write(b *strings.Builder) {
	grants := f.section == ofStorage || f.section == ofProcess
	if grants {
		b.WriteString("| grant ")
	}
	b.WriteString("| token | callers | token requests | log |\n|---|---|---|---|")
	if grants {
		b.WriteString("---|")
	}
	b.WriteString("\n")
	for _, r := range f.rows {
		for _, h := range holdings {
			if grants {
				fmt.Fprintf(b, "| %s ", r.grant)
			}
			fmt.Fprintf(b, "| %s %s\n", h, r.cells[h].line())
		}
	}
	b.WriteString("\n")
}

// line is the rest of a cell's line.
func (c cell) line() string {
	if c.absent != "" {
		return "| " + c.absent + " | | |"
	}
	return fmt.Sprintf("| %s | %s | %s |", c.callersText(), c.requestsText(), c.logText())
}

func (c cell) callersText() string {
	text := fmt.Sprintf("%d, *%s*", c.status, c.outcome)
	if c.other != 0 {
		text = fmt.Sprintf("%d from the healthy node, %d from the other", c.status, c.other)
	}
	if c.wait == 0 {
		return text + ", at once"
	}
	return text + fmt.Sprintf(", after waiting for %s, %s at most", c.until, seconds(c.wait))
}

func seconds(d time.Duration) string {
	return strings.TrimSuffix(fmt.Sprintf("%.1f", d.Seconds()), ".0") + " s"
}

func (c cell) requestsText() string {
	var text string
	switch {
	case c.most < 0:
		text = "again and again"
	case c.most == 0:
		text = "none"
	case c.by != "":
		text = fmt.Sprintf("%d: `%s`", c.most, strings.ReplaceAll(c.by, ", ", "`, `"))
	default:
		text = itoa(c.most)
	}
	if c.twice > 0 {
		text += fmt.Sprintf("; %d with a refresh token that was spent", c.twice)
	}
	return text
}

func (c cell) logText() string {
	var lines []string
	for _, e := range c.log {
		line := fmt.Sprintf("`%s` %s", e.level, e.message)
		if e.reason != "" {
			line += ": " + e.reason
		}
		lines = append(lines, line)
	}
	if len(lines) == 0 && c.silent {
		return "no error"
	}
	return strings.Join(lines, "<br>")
}

// assertDocument wants docs/failures.md to be the table; with -update it makes
// it so.
func assertDocument(t *testing.T) {
	t.Helper()
	if *updateDocument {
		path := filepath.Join("..", "docs", "failures.md")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // a document
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(document()), 0o644); err != nil { //nolint:gosec // a document
			t.Fatal(err)
		}
	}
	if harness.ReadRepositoryFile(t, "docs/failures.md") != document() {
		t.Error("docs/failures.md is not the table any more; go test -run TestFaultTable -update writes it")
	}
}
