package injecttoken

import (
	"context"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/refresher"
)

// nameLister is a storage that lists names without their folder.
type nameLister struct{ *certmagic.FileStorage }

func (s nameLister) List(ctx context.Context, prefix string, recursive bool) ([]string, error) {
	keys, err := s.FileStorage.List(ctx, prefix, recursive)
	for i := range keys {
		keys[i] = path.Base(keys[i])
	}
	return keys, err
}

// blindLister is a storage that lists nothing.
type blindLister struct{ *certmagic.FileStorage }

func (blindLister) List(context.Context, string, bool) ([]string, error) { return nil, nil }

func TestTheIntentsOfOthersAreSeenWhereNamesAloneAreListed(t *testing.T) {
	s := newTestStore(t, t.TempDir(), "crm")
	s.storage = nameLister{&certmagic.FileStorage{Path: t.TempDir()}}
	want := refresher.Intent{Node: "other", Claim: 1, Counter: 2, Beat: 3}
	if err := s.SaveIntent(t.Context(), want); err != nil {
		t.Fatal(err)
	}
	all, err := s.Intents(t.Context())
	if err != nil || len(all) != 1 || all[0].Node != want.Node || all[0].Beat != want.Beat {
		t.Fatalf("found %v, %v", all, err)
	}
	if err := s.RemoveIntent(t.Context(), all[0]); err != nil {
		t.Fatal(err)
	}
	if all, err := s.Intents(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("left are %v, %v", all, err)
	}
}

// TestARefreshTokenIsKeptWhereNothingIsListed has a storage in which nobody can
// see whether another node is at work.
func TestARefreshTokenIsKeptWhereNothingIsListed(t *testing.T) {
	dir := t.TempDir()
	s := newTestStore(t, dir, "crm")
	s.storage = blindLister{&certmagic.FileStorage{Path: dir}}
	r := refresher.New(refresher.Options{OneUse: true})
	defer r.Close(time.Second)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	r.Attach(&refresher.Environment{Source: s.source, Log: zap.NewNop(), Store: s})
	if token, err := r.Token(ctx); err == nil || !strings.Contains(err.Error(), "does not show what was written") {
		t.Errorf("got %v, %v", token, err)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "token_sources/*/*/token.json")); err != nil || len(left) > 0 {
		t.Errorf("stored are %v, %v", left, err)
	}
	if _, err := os.Stat(filepath.Join(dir, "token_sources")); err != nil {
		t.Error(err) // it was in use at all
	}
}
