package injecttoken

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/caddytoken/inject-token/refresher"
	"github.com/caddytoken/inject-token/tokensource"
)

// storedAuthorization is the form of authorization-ID.json. With encryption,
// Ciphertext stands in the place of Secret, and the entry's place is bound to it.
type storedAuthorization struct {
	Version int `json:"version"`
	*authorization
	Tries      int             `json:"tries,omitempty"`
	Node       string          `json:"node,omitempty"`
	Beat       time.Time       `json:"beat,omitzero"`
	KeyID      string          `json:"key_id,omitempty"`
	Ciphertext []byte          `json:"ciphertext,omitempty"`
	Secret     json.RawMessage `json:"secret,omitempty"`
}

// authorizationSecret is the secret part.
type authorizationSecret struct {
	Code   *tokensource.Authorization       `json:"code,omitempty"`
	Device *tokensource.DeviceAuthorization `json:"device,omitempty"`
}

var authorizationID = regexp.MustCompile(`^[0-9a-f]{16}$`)

// storagePatience bounds what one request asks of the storage. Its lock is polled
// once a second.
const storagePatience = 5 * time.Second

// patiently calls access and waits for it, but not for long. Whoever has sent the
// request may leave meanwhile.
func patiently[T any](ctx context.Context, access func(context.Context) (T, error)) (T, error) {
	return refresher.Patiently(context.WithoutCancel(ctx), storagePatience, access)
}

func authorizationKey(dir, id string) string { return path.Join(dir, "authorization-"+id+".json") }

// saveAuthorization stores it in its place.
func (s *store) saveAuthorization(ctx context.Context, a *authorization) error {
	dir, err := s.dir()
	if err != nil {
		return err
	}
	key := authorizationKey(dir, a.ID)
	if a.Status == authorizationGranted || a.Status == authorizationFailed { // nobody needs its secrets again
		a.code, a.device = nil, nil
	}
	secret, err := json.Marshal(authorizationSecret{a.code, a.device})
	if err != nil {
		return err
	}
	public := *a
	public.AuthorizationURL = ""
	out := storedAuthorization{Version: recordVersion, authorization: &public, Tries: a.tries, Node: a.node, Beat: a.beat}
	keys, err := s.keys.resolve()
	switch {
	case err != nil:
		return err
	case len(keys) == 0:
		out.Secret = secret
	default:
		out.KeyID = keys[0].id
		out.Ciphertext = keys[0].seal(secret, []byte(key))
	}
	text, err := json.Marshal(out)
	if err != nil {
		return err
	}
	_, err = patiently(ctx, func(ctx context.Context) (struct{}, error) {
		return struct{}{}, quietStorage(s.storage.Store(ctx, key, text))
	})
	return err
}

// loadAuthorization returns one by its ID; the error is errNoAuthorization where
// there is none.
func (s *store) loadAuthorization(ctx context.Context, id string) (*authorization, error) {
	dir, err := s.dir()
	if err != nil {
		return nil, err
	}
	if !authorizationID.MatchString(id) {
		return nil, errNoAuthorization
	}
	key := authorizationKey(dir, id)
	text, err := patiently(ctx, func(ctx context.Context) ([]byte, error) { return s.storage.Load(ctx, key) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errNoAuthorization
	}
	if err != nil {
		return nil, quietStorage(err)
	}
	return s.decodeAuthorization(key, id, text)
}

func (s *store) decodeAuthorization(key, id string, text []byte) (*authorization, error) {
	in := storedAuthorization{authorization: new(authorization)}
	if json.Unmarshal(text, &in) != nil || in.Version != recordVersion || in.ID != id || in.Source != s.name {
		return nil, errors.New("what is stored of this authorization cannot be read")
	}
	plain := []byte(in.Secret)
	if in.Ciphertext != nil {
		keys, err := s.keys.resolve()
		if err != nil {
			return nil, err
		}
		k, known := keys.byID(in.KeyID)
		if !known {
			return nil, errors.New("what is stored of this authorization is encrypted with a key that is not among encryption_key")
		}
		if plain, err = k.open(in.Ciphertext, []byte(key)); err != nil {
			return nil, errors.New("what is stored of this authorization is damaged, or belongs to another source")
		}
	}
	var secret authorizationSecret
	if json.Unmarshal(plain, &secret) != nil {
		return nil, errors.New("what is stored of this authorization cannot be read")
	}
	a := in.authorization
	a.work = work{code: secret.Code, device: secret.Device, tries: in.Tries, node: in.Node, beat: in.Beat}
	return a, nil
}

// authorizations returns all of this source, the oldest first. Those that nobody
// has to know of any more are removed.
func (s *store) authorizations(ctx context.Context) ([]*authorization, error) {
	dir, err := s.dir()
	if err != nil {
		return nil, err
	}
	keys, err := patiently(ctx, func(ctx context.Context) ([]string, error) { return s.storage.List(ctx, dir, false) })
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, quietStorage(err)
	}
	var all []*authorization
	for _, key := range keys {
		id, ours := strings.CutPrefix(strings.TrimSuffix(path.Base(key), ".json"), "authorization-")
		if !ours {
			continue
		}
		a, err := s.loadAuthorization(ctx, id)
		switch {
		case err != nil: // which says nothing of it
		case time.Since(a.Expires) > authorizationRemembered:
			_ = s.storage.Delete(ctx, authorizationKey(dir, id))
		default:
			all = append(all, a)
		}
	}
	slices.SortFunc(all, func(a, b *authorization) int { return cmp.Or(a.Began.Compare(b.Began), strings.Compare(a.ID, b.ID)) })
	return all, nil
}

// makeRoom forgets some where there are too many: those that have ended first, and
// then the oldest. One whose code is on its way stays.
func (s *store) makeRoom(ctx context.Context) error {
	all, err := s.authorizations(ctx)
	if err != nil {
		return err
	}
	dir, err := s.dir()
	if err != nil {
		return err
	}
	now := time.Now()
	all = slices.DeleteFunc(all, func(a *authorization) bool { return a.seen(now).Status == authorizationExchanging })
	slices.SortStableFunc(all, func(a, b *authorization) int {
		return cmp.Compare(pendingLast(a.seen(now)), pendingLast(b.seen(now)))
	})
	for len(all) >= mostAuthorizations {
		if err := s.storage.Delete(ctx, authorizationKey(dir, all[0].ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return quietStorage(err)
		}
		all = all[1:]
	}
	return nil
}

func pendingLast(a *authorization) int {
	if a.Status == authorizationPending {
		return 1
	}
	return 0
}

// changing holds one while an authorization is read and written again in this
// process: the storage's lock, which does that between processes, is polled once a
// second.
var changing = make(chan struct{}, 1)

// changeAuthorization changes one that is stored, while nobody else does.
func (s *store) changeAuthorization(ctx context.Context, id string, change func(*authorization) error) (*authorization, error) {
	if _, err := s.loadAuthorization(ctx, id); err != nil { // where there is none, nothing is written
		return nil, err
	}
	name, err := s.lockName()
	if err != nil {
		return nil, err
	}
	name += "_authorization_" + id
	return patiently(ctx, func(ctx context.Context) (*authorization, error) {
		if err := takeChanging(ctx); err != nil {
			return nil, err
		}
		defer func() { <-changing }()
		if err := s.storage.Lock(ctx, name); err != nil {
			return nil, quietStorage(err)
		}
		defer func() { _ = s.storage.Unlock(context.WithoutCancel(ctx), name) }()
		return s.rewriteAuthorization(ctx, id, change)
	})
}

// updateAuthorization changes one that is stored, while nobody else in this process
// does. For what is done each second the storage's lock is too dear: that of files
// leaves a goroutine behind for five.
func (s *store) updateAuthorization(ctx context.Context, id string, change func(*authorization) error) error {
	_, err := patiently(ctx, func(ctx context.Context) (*authorization, error) {
		if err := takeChanging(ctx); err != nil {
			return nil, err
		}
		defer func() { <-changing }()
		return s.rewriteAuthorization(ctx, id, change)
	})
	return err
}

func takeChanging(ctx context.Context) error {
	select {
	case changing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return refresher.ErrHangs
	}
}

func (s *store) rewriteAuthorization(ctx context.Context, id string, change func(*authorization) error) (*authorization, error) {
	a, err := s.loadAuthorization(ctx, id)
	switch {
	case err != nil:
		return nil, err
	case ctx.Err() != nil: // nobody waits for it any more
		return nil, refresher.ErrHangs
	}
	if err := change(a); err != nil {
		return nil, err
	}
	return a, s.saveAuthorization(ctx, a)
}
