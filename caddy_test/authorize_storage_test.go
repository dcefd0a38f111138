package caddy_test

import (
	"io/fs"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/caddytoken/inject-token/caddy_test/internal/provider"
)

// TestWhatIsStoredOfAnAuthorizationIsEncrypted looks at the storage in each state
// of an authorization: with a key there is nothing in clear, and without one the
// files are for Caddy's own user alone.
func TestWhatIsStoredOfAnAuthorizationIsEncrypted(t *testing.T) {
	t.Parallel()
	for _, grant := range []string{"authorization_code", "device_code"} {
		for _, encrypted := range []bool{true, false} {
			name := grant + " without a key"
			if encrypted {
				name = grant + " with a key"
			}
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				folder := newSharedFolder(t)
				h := newHeld()
				a := newConsent(t, nil)
				a.grant, a.globals = grant, folder.option()
				if encrypted {
					a.keys = "encryption_key " + newKey(t)
				}
				a.start()
				var stored strings.Builder
				look := func(when string) {
					entries := folder.entries(t)
					n := 0
					for key, text := range entries {
						stored.WriteString(key + "\n" + text + "\n")
						if strings.HasPrefix(key, "token_sources") {
							n++
						}
					}
					if n == 0 {
						t.Errorf("%s nothing is stored", when)
					}
					folder.assertPrivate(t)
				}
				begun := a.begin()
				look("while a person is needed")
				a.p.Set(func(k *provider.Knobs) { k.Intercept = h.intercept })
				var granted sync.WaitGroup
				if grant == "device_code" {
					a.p.Approve(begun.UserCode)
				} else {
					landing := a.agree(begun)
					granted.Go(func() { a.assertLanded(a.land(landing)) })
				}
				h.await(t)
				look("while the provider thinks")
				close(h.release)
				granted.Wait()
				a.c.Eventually(40*time.Second, "it is granted", a.isIn(begun.ID, "granted"))
				look("with a token")
				a.assertServes("in the end")

				secrets := a.secrets()
				found := false
				for _, secret := range secrets {
					if strings.Contains(stored.String(), secret) {
						found = true
						if encrypted || secret == provider.ClientSecret {
							t.Errorf("the storage holds %q", secret)
						}
					}
				}
				if !encrypted && !found {
					t.Error("no secret is found without a key: this looks in the wrong place")
				}
			})
		}
	}
}

// assertPrivate wants files and folders of token sources that nobody else reads.
func (f sharedFolder) assertPrivate(t *testing.T) {
	t.Helper()
	err := filepath.WalkDir(filepath.Join(string(f), "token_sources"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return ignoreMissing(err)
		}
		info, err := entry.Info()
		if err != nil {
			return ignoreMissing(err)
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is %v", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestAStoredAuthorizationOfAnotherKeyIsLost restarts Caddy with another key while
// the person is at the provider.
func TestAStoredAuthorizationOfAnotherKeyIsLost(t *testing.T) {
	t.Parallel()
	folder := newSharedFolder(t)
	a := newConsent(t, nil)
	a.globals = folder.option()
	a.keys = "encryption_key " + newKey(t)
	a.start()
	landing := a.agree(a.begin())
	a.c.Stop()
	a.keys = "encryption_key " + newKey(t)
	a.c.Write("Caddyfile", a.c.Expand(a.caddyfile()))
	a.again()
	got := a.land(landing)
	a.assertPage(got, http.StatusBadRequest, http.StatusInternalServerError)
	a.assertAsked("with another key", 0)
	a.authorize()
	a.assertServes("authorized again")
}

// TestNothingSecretIsLeftOfAuthorizationsThatEnded ends some, in each way, and wants
// what is secret of them away from the storage.
func TestNothingSecretIsLeftOfAuthorizationsThatEnded(t *testing.T) {
	t.Parallel()
	folder := newSharedFolder(t)
	a := newConsent(t, nil)
	a.globals = folder.option()
	a.start()
	a.authorize()
	denied := a.begin()
	a.land("?error=access_denied&state=" + query(t, denied.URL).Get("state"))
	refused := a.begin()
	a.land(changed(t, a.agree(refused), "code", "no-code-of-the-provider"))
	a.told.add("no-code-of-the-provider")
	a.c.Eventually(30*time.Second, "no verifier, code or state is left", func() bool {
		var all strings.Builder
		for key, text := range folder.entries(t) {
			all.WriteString(key + text)
		}
		text := all.String()
		for _, r := range a.p.Requests() {
			if strings.Contains(text, r.Form.Get("code_verifier")) || strings.Contains(text, r.Form.Get("code")) {
				return false
			}
		}
		return !strings.Contains(text, query(t, denied.URL).Get("state"))
	})
}
