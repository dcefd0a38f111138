package caddy_test

import (
	"strings"
	"sync"
	"testing"

	"github.com/caddytoken/inject-token/caddy_test/internal/faultstorage"
	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// TestFaultTable drives each cell of the table that docs/failures.md shows, and
// wants the document to be that table.
func TestFaultTable(t *testing.T) {
	t.Parallel()
	t.Run("document", func(t *testing.T) {
		t.Parallel()
		assertDocument(t)
	})
	// The cells of a section are sources of one Caddy and go on at once: most
	// of their time they wait.
	for _, s := range []section{ofProvider, ofStorage, ofUpstream} {
		t.Run(string(s), func(t *testing.T) {
			t.Parallel()
			runTrials(t, s)
		})
	}
	for _, f := range faultTable {
		if f.section == ofProcess {
			t.Run(string(f.section)+" "+f.title, func(t *testing.T) {
				t.Parallel()
				runKill(t, f)
			})
		}
	}
}

// trials are those of some faults.
func trials(t *testing.T, control *faultstorage.Control, take func(fault) bool) []*trial {
	t.Helper()
	var all []*trial
	for _, f := range faultTable {
		if !take(f) {
			continue
		}
		for _, r := range f.rows {
			for _, h := range holdings {
				if r.cells[h].absent == "" {
					all = append(all, newTrial(t, control, f, r, h))
				}
			}
		}
	}
	return all
}

// startTrials runs one Caddy with the sources of all trials.
func startTrials(t *testing.T, all []*trial) *harness.Caddy {
	t.Helper()
	var sources, sites strings.Builder
	sources.WriteString(all[0].global + "\n")
	options := []harness.Option{withSecret(provider.ClientSecret)}
	for _, tr := range all {
		sources.WriteString(tr.tokenSource())
		sites.WriteString(tr.site())
		options = append(options, tr.options()...)
	}
	text, url := caddyfile(t, sources.String(), "log\n"+sites.String())
	if !all[0].own {
		text = strings.Replace(text, "{{globals}}", "{{globals}}\n\t{{storage}}", 1)
	}
	c := all[0].control.Caddy(t, text, options...)
	for _, tr := range all {
		tr.c, tr.url = c, url+"/"+tr.name
	}
	return c
}

func runTrials(t *testing.T, s section) {
	all := trials(t, faultstorage.New(t), func(f fault) bool { return f.section == s })
	releases := make([]func(), len(all))
	for i, tr := range all {
		releases[i] = tr.prepare()
	}
	startTrials(t, all)
	var running sync.WaitGroup
	for i, tr := range all {
		running.Go(func() { tr.run(releases[i]) })
	}
	running.Wait()
}
