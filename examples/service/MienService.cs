// Asks mien's service for a player's face on a picture: once, not as a stream.
// Unity 2022.3 or newer.
//
//   StartCoroutine(service.Enrol(photo, "self", id => StartCoroutine(service.Swap(id, card, Show))));
//
// Written after docs/integrate/clients.md; it has not been compiled where mien is tested.
// A key in a game is everybody's: let a server of your own ask, which holds the key.
using System;
using System.Collections;
using System.Collections.Generic;
using UnityEngine;
using UnityEngine.Networking;

public sealed class MienService : MonoBehaviour
{
    [SerializeField] string address = "http://127.0.0.1:8000";
    [SerializeField] string key = "";

    [Tooltip("Seconds for which a busy server is asked again.")]
    [SerializeField] float patience = 60;

    [Serializable] sealed class Identity { public string id; }
    [Serializable] sealed class Problem { public string title; public string detail; }

    /// Enrols a player who was told and said yes; JPEG in, identity out.
    public IEnumerator Enrol(byte[] photo, string consent, Action<string> done)
    {
        yield return Ask(() => Post("identities",
            new MultipartFormDataSection("consent", consent),
            new MultipartFormFileSection("photos", photo, "photo.jpg", "image/jpeg")),
            answer => done(JsonUtility.FromJson<Identity>(answer.text).id));
    }

    /// Puts the player's face on a picture; JPEG in, texture out.
    public IEnumerator Swap(string identity, byte[] picture, Action<Texture2D> done)
    {
        yield return Ask(() => Post("swaps",
            new MultipartFormDataSection("identity", identity),
            new MultipartFormDataSection("format", "jpeg"),
            new MultipartFormFileSection("target", picture, "target.jpg", "image/jpeg")),
            answer =>
            {
                var texture = new Texture2D(2, 2);
                texture.LoadImage(answer.data);
                done(texture);
            });
    }

    /// Withdraws the consent: everything of the face is gone, and what was made of it.
    public IEnumerator Forget(string identity)
    {
        yield return Ask(() => UnityWebRequest.Delete($"{address}/v1/identities/{identity}"), null);
    }

    UnityWebRequest Post(string path, params IMultipartFormSection[] form) =>
        UnityWebRequest.Post($"{address}/v1/{path}", new List<IMultipartFormSection>(form));

    // Sends a request; again, after as long as the server says, while it is too busy.
    IEnumerator Ask(Func<UnityWebRequest> make, Action<DownloadHandler> done)
    {
        float until = Time.realtimeSinceStartup + patience;
        while (true)
        {
            using var request = make();
            request.SetRequestHeader("Authorization", "Bearer " + key);
            yield return request.SendWebRequest();
            if (request.result == UnityWebRequest.Result.Success)
            {
                done?.Invoke(request.downloadHandler);
                yield break;
            }
            bool busy = request.responseCode == 429 || request.responseCode == 503;
            float.TryParse(request.GetResponseHeader("Retry-After"), out float wait);
            if (busy && wait > 0 && Time.realtimeSinceStartup + wait < until)
            {
                yield return new WaitForSecondsRealtime(wait);
                continue;
            }
            var text = request.downloadHandler?.text;
            var said = string.IsNullOrEmpty(text) || request.responseCode == 0
                ? request.error
                : JsonUtility.FromJson<Problem>(text).detail;
            Debug.LogWarning("mien: " + said);
            yield break;
        }
    }
}
