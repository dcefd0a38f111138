package injecttoken

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"slices"
	"strings"

	"github.com/caddytoken/inject-token/tokensource"
)

// encryptionKeys are keys as the user writes them. They are resolved whenever
// they are needed, as all secrets are.
type encryptionKeys []string

// encryptionKey encrypts what is stored: AES-256 in GCM, each time with another
// random nonce in front.
type encryptionKey struct {
	id   string // stands beside the ciphertext
	aead cipher.AEAD
}

const encryptionKeyForm = "32 bytes in base64; caddy token-source keygen makes one"

// NewEncryptionKey returns a new key as encryption_key takes it.
func NewEncryptionKey() string {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return base64.StdEncoding.EncodeToString(key)
}

// check finds what is wrong with the keys that are written out.
func (k encryptionKeys) check() *mistake {
	for i, template := range k {
		switch {
		case template == "":
			return wrong("encryption_key", "a key is empty; write {file.PATH}, of a file with %s", encryptionKeyForm)
		case slices.Contains(k[:i], template):
			return wrong("encryption_key", "a key stands there twice")
		case slices.ContainsFunc(tokensource.Placeholders(template), isRuntime):
			continue
		}
		if _, err := parseEncryptionKey(template); err != nil {
			return wrong("encryption_key", "%v", err)
		}
	}
	return nil
}

func parseEncryptionKey(text string) (encryptionKey, error) {
	text = strings.TrimRight(strings.NewReplacer("-", "+", "_", "/").Replace(strings.TrimSpace(text)), "=")
	key, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil || len(key) != 32 {
		return encryptionKey{}, errors.New("a key is not " + encryptionKeyForm)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return encryptionKey{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return encryptionKey{}, err
	}
	id := sha256.Sum256(append([]byte("inject-token encryption key\n"), key...))
	return encryptionKey{hex.EncodeToString(id[:8]), aead}, nil
}

// resolvedKeys are keys that can be used: the first encrypts, all decrypt.
type resolvedKeys []encryptionKey

func (k encryptionKeys) resolve() (resolvedKeys, error) {
	var out resolvedKeys
	for _, template := range k {
		text, err := tokensource.Resolve("encryption_key", template, lookup)
		if err != nil {
			return nil, err
		}
		key, err := parseEncryptionKey(text)
		if err != nil {
			return nil, errors.New("encryption_key: " + err.Error())
		}
		out = append(out, key)
	}
	return out, nil
}

func (k resolvedKeys) byID(id string) (encryptionKey, bool) {
	i := slices.IndexFunc(k, func(key encryptionKey) bool { return key.id == id })
	if i < 0 {
		return encryptionKey{}, false
	}
	return k[i], true
}

func (k encryptionKey) seal(plain, bound []byte) []byte {
	return k.aead.Seal(nil, nil, plain, bound) //nolint:gosec // this AEAD makes a nonce of its own, and wants none
}

func (k encryptionKey) open(ciphertext, bound []byte) ([]byte, error) {
	return k.aead.Open(nil, nil, ciphertext, bound)
}
